/** Fills the guest's memcached, and finds what is wrong in it. */
import { createHash } from 'node:crypto';
import net from 'node:net';
import { withDeadline } from '../util/deadline.js';

export interface MemcachedLoad {
  readonly port: number;
  readonly keyCount: number;
  readonly valueBytes: number;
}

const TIMEOUT_MS = 60_000;
/** Commands that are sent together. */
const BATCH = 100;

/** Stores `keyCount` values that follow from their keys. */
export async function loadMemcached(load: MemcachedLoad): Promise<void> {
  for (const keys of batches(load.keyCount)) {
    const commands = keys.map((key) => `set k${key} 0 0 ${load.valueBytes}\r\n${value(key, load)}\r\n`);
    const answer = await talk(load.port, commands.join(''));
    if (answer !== 'STORED\r\n'.repeat(keys.length)) throw new Error(`memcached refused a value: ${answer}`);
  }
}

/** How many of the values stored by the same load are now missing or different. */
export async function countWrongValues(load: MemcachedLoad): Promise<number> {
  let wrong = 0;
  for (const keys of batches(load.keyCount)) {
    const answer = await talk(load.port, keys.map((key) => `get k${key}\r\n`).join(''));
    const entries = keys.map((key) => `VALUE k${key} 0 ${load.valueBytes}\r\n${value(key, load)}\r\nEND\r\n`);
    if (answer !== entries.join('')) wrong += entries.filter((entry) => !answer.includes(entry)).length;
  }
  return wrong;
}

/** A TCP port of 127.0.0.1 that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve, reject) => server.listen(0, '127.0.0.1', resolve).once('error', reject));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no TCP port assigned');
  return address.port;
}

function value(key: number, { valueBytes }: MemcachedLoad): string {
  const digest = createHash('sha256').update(`value of ${key}`).digest('hex');
  return digest.repeat(Math.ceil(valueBytes / digest.length)).slice(0, valueBytes);
}

function batches(keyCount: number): number[][] {
  const all = Array.from({ length: keyCount }, (_, key) => key);
  return Array.from({ length: Math.ceil(keyCount / BATCH) }, (_, i) => all.slice(i * BATCH, (i + 1) * BATCH));
}

/** Sends `commands` and returns their answers; a last command of our own marks the end. */
async function talk(port: number, commands: string): Promise<string> {
  const socket = net.connect(port, '127.0.0.1').setEncoding('latin1');
  let answer = '';
  const complete = new Promise<string>((resolve, reject) => {
    socket.on('data', (text) => {
      answer += String(text);
      const end = /VERSION [^\n]*\r\n$/.exec(answer);
      if (end) resolve(answer.slice(0, end.index));
    });
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('memcached closed the connection')));
  });
  try {
    socket.write(`${commands}version\r\n`);
    return await withDeadline(complete, { what: 'the answer of memcached', timeoutMs: TIMEOUT_MS });
  } finally {
    socket.destroy();
  }
}
