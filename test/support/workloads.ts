/** What clients of the guest see: values in its memcached, and the file that its httpd serves. */
import { readFile } from 'node:fs/promises';
import { guestFile } from './cache.js';

export * from '../../src/bench/workloads.js';

const TIMEOUT_MS = 60_000;

/** Whether the guest's httpd serves its file byte for byte. */
export async function httpFileIntact(port: number): Promise<boolean> {
  const response = await fetch(`http://127.0.0.1:${port}/blob.bin`, {
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const served = Buffer.from(await response.arrayBuffer());
  return served.equals(await readFile(guestFile('blob.bin')));
}
