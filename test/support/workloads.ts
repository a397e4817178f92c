/** What clients of the guest see: values in its memcached, and the file that its httpd serves; and where they find it. */
import { readFile } from 'node:fs/promises';
import net from 'node:net';
import { guestFile } from './cache.js';
import { BACKSTOP_MS } from './until.js';

export * from '../../src/bench/workloads.js';

/** Below those that the kernel gives to clients, and others for each of the test files that run side by side. */
const FIRST_PORT = 10_000;
const PORTS_OF_WORKER = 2_000;
const WORKERS = 11;

const given = new Set<number>();

/**
 * A TCP port of 127.0.0.1 that is free, and is still so when a guest that had it is restored: no other is given it
 * meanwhile, in this file or in another.
 */
export async function freePort(): Promise<number> {
  const worker = Number(process.env['VITEST_POOL_ID'] ?? 0) % WORKERS;
  for (;;) {
    const port = FIRST_PORT + worker * PORTS_OF_WORKER + Math.floor(Math.random() * PORTS_OF_WORKER);
    if (given.has(port) || !(await isFree(port))) continue;
    given.add(port);
    return port;
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = net.createServer();
  const listening = await new Promise((resolve) =>
    server
      .once('listening', () => resolve(true))
      .once('error', () => resolve(false))
      .listen(port, '127.0.0.1'),
  );
  if (listening === true) await new Promise((resolve) => server.close(resolve));
  return listening === true;
}

/** Whether the guest's httpd serves its file byte for byte. */
export async function httpFileIntact(port: number): Promise<boolean> {
  const response = await fetch(`http://127.0.0.1:${port}/blob.bin`, {
    signal: AbortSignal.timeout(BACKSTOP_MS),
  });
  const served = Buffer.from(await response.arrayBuffer());
  return served.equals(await readFile(guestFile('blob.bin')));
}
