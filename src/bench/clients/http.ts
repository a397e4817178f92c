/** Ten clients download the guest's file. Its httpd serves one request for each connection. */
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { nowMs } from '../../timeline/clock.js';
import type { AnswerLog, ClientJob } from './load.js';

const CLIENTS = 10;
/** The rate of all clients together. */
const DOWNLOADS_PER_S = 10;
const REQUEST = 'GET /blob.bin HTTP/1.0\r\n\r\n';
const FILE_BYTES = 256 << 10;
/** A connection without a first byte by then is tried again. Each further one gets twice the time. */
const FIRST_BYTE_MS = 250;
const MAX_FIRST_BYTE_MS = 4_000;

/** Goes on until the signal. */
export function startDownloads({ ports }: ClientJob, log: AnswerLog, signal: AbortSignal): void {
  const periodMs = (CLIENTS / DOWNLOADS_PER_S) * 1000;
  for (let client = 0; client < CLIENTS; client++) {
    const run = async () => {
      for (let dueMs = nowMs() + (client / CLIENTS) * periodMs; ; dueMs += periodMs) {
        // A client that is late has missed its turns.
        while (dueMs + periodMs < nowMs()) dueMs += periodMs;
        await sleep(Math.max(0, dueMs - nowMs()), undefined, { signal });
        const sentAtMs = nowMs();
        await download(ports.http, signal);
        log.add(sentAtMs, nowMs());
      }
    };
    run().catch(() => undefined); // rejects only by the signal
  }
}

async function download(port: number, signal: AbortSignal): Promise<void> {
  for (let patienceMs = FIRST_BYTE_MS; ; patienceMs = Math.min(2 * patienceMs, MAX_FIRST_BYTE_MS)) {
    signal.throwIfAborted();
    if ((await fetchOnce(port, patienceMs, signal)) >= FILE_BYTES) return;
  }
}

/** How many bytes came before the connection ended, in whichever way. */
async function fetchOnce(port: number, patienceMs: number, signal: AbortSignal): Promise<number> {
  const socket = net.connect({ port, host: '127.0.0.1' });
  const end = () => socket.destroy();
  const timer = setTimeout(end, patienceMs);
  signal.addEventListener('abort', end, { once: true });
  let bytes = 0;
  socket.write(REQUEST);
  socket.on('data', (chunk) => {
    clearTimeout(timer);
    bytes += chunk.length;
  });
  socket.on('error', () => undefined); // 'close' follows
  await new Promise((resolve) => socket.once('close', resolve));
  clearTimeout(timer);
  signal.removeEventListener('abort', end);
  return bytes;
}
