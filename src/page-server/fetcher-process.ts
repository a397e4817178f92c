/**
 * The fetcher: one process for a cache, started by whatever needs it first. It ends when nothing has needed it for a while; if
 * it dies, the next process that needs it starts another one, which goes on with what is here.
 */
import fs from 'node:fs';
import net from 'node:net';
import { mapShared, SharedWord, hasAddon } from '../native/index.js';
import { debug } from '../util/debug.js';
import { CACHE_FILES, WANT_BYTES, decodeWant } from './cache-layout.js';
import { Cache } from './cache/cache.js';
import { Control } from './fetcher/control.js';
import { Fetcher } from './fetcher/fetcher.js';
import { openStore } from './open-store.js';

const IDLE_MS = 30_000;

async function main(dir: string): Promise<void> {
  const cache = await Cache.open(dir);
  // Another process was faster.
  if (cache === undefined) return;
  process.chdir(dir);
  await cache.sweep();
  const fetcher = new Fetcher({ cache, openStore, onArrival: arrivalsOf(cache) });
  readWants(cache, fetcher);
  fs.rmSync(CACHE_FILES.socket, { force: true });
  const connections = new Set<Control>();
  await new Promise<void>((resolve) => {
    const endSoon = () => setTimeout(() => connections.size === 0 && resolve(), IDLE_MS);
    let idle = endSoon();
    const server = net.createServer((socket) => {
      clearTimeout(idle);
      const control = new Control(fetcher, socket, () => {
        connections.delete(control);
        clearTimeout(idle);
        idle = endSoon();
      });
      connections.add(control);
    });
    // Relative to the folder, because a path of a socket has at most 107 bytes.
    server.listen(CACHE_FILES.socket);
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, resolve);
  });
  debug('fetcher', () => 'ends');
  fs.rmSync(CACHE_FILES.socket, { force: true });
  await fetcher.close();
}

/** Wakes what waits for a range. Without the addon, nothing waits there: it looks now and then. */
function arrivalsOf(cache: Cache): () => void {
  if (!hasAddon()) return () => undefined;
  const fd = fs.openSync(cache.pathOf('arrivals'), 'r+');
  const word = new SharedWord(mapShared(fd), 0);
  fs.closeSync(fd);
  return () => word.raise();
}

/** Open for writing, too: so it has no end when the last process that wants something has closed it. */
function readWants(cache: Cache, fetcher: Fetcher): void {
  const fd = fs.openSync(cache.pathOf('wants'), fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
  let begun = Buffer.alloc(0);
  new net.Socket({ fd, readable: true, writable: false }).on('data', (bytes) => {
    const records = Buffer.concat([begun, bytes]);
    const end = records.length - (records.length % WANT_BYTES);
    for (let at = 0; at < end; at += WANT_BYTES) {
      const want = decodeWant(records.subarray(at, at + WANT_BYTES));
      if (want !== undefined) fetcher.want(want);
    }
    begun = records.subarray(end);
  });
}

void main(process.argv[2]!).then(() => process.exit(0));
