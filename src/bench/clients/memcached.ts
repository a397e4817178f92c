/** Two clients of the guest's memcached: one asks for its version every millisecond, the other gets values. */
import { nowMs } from '../../timeline/clock.js';
import { seededRandom, type Random } from '../random.js';
import { PROBE } from './knock.js';
import type { AnswerLog, ClientJob } from './load.js';
import { Pipeline } from './pipeline.js';

const PING_EVERY_MS = 1;
/** A long stall is one gap, not thousands of requests that wait in the guest's network card. */
const MAX_PINGS_OUTSTANDING = 16;

const GETS_PER_S = 500;
const GET_CONNECTIONS = 2;
const MAX_GETS_OUTSTANDING = 16;
const GET_EVERY_MS = 5;
/** The hot set: nine of ten gets ask for a tenth of the keys. */
const HOT_KEY_SHARE = 0.1;
const HOT_GET_SHARE = 0.9;

/**
 * The smallest thing that a program in the guest answers. (ICMP would be answered by its kernel, and needs rights
 * on the host.) Returns when the guest has answered once; the pings go on until the signal.
 */
export async function startPing({ ports }: ClientJob, log: AnswerLog, signal: AbortSignal): Promise<void> {
  const { memcached: port } = ports;
  const pipeline = new Pipeline({ port, log, maxOutstanding: MAX_PINGS_OUTSTANDING, signal });
  await pipeline.open();
  repeat(PING_EVERY_MS, signal, () => void pipeline.request(PROBE, pipeline.probeAnswerBytes));
}

/** Gets at a steady rate, alternating between the connections. */
export async function startGets(
  { ports, values, seed, getsPerS = GETS_PER_S }: ClientJob,
  log: AnswerLog,
  signal: AbortSignal,
): Promise<void> {
  const options = { port: ports.memcached, log, maxOutstanding: MAX_GETS_OUTSTANDING, signal };
  const pipelines = Array.from({ length: GET_CONNECTIONS }, () => new Pipeline(options));
  await Promise.all(pipelines.map((pipeline) => pipeline.open()));
  const random = seededRandom(seed);
  const startMs = nowMs();
  let dueCount = 0;
  repeat(GET_EVERY_MS, signal, () => {
    const untilCount = ((nowMs() - startMs) / 1000) * getsPerS;
    for (; dueCount < untilCount; dueCount++) {
      const key = pickKey(values.keyCount, random);
      const header = `VALUE k${key} 0 ${values.valueBytes}\r\n`;
      const answerBytes = header.length + values.valueBytes + '\r\nEND\r\n'.length;
      pipelines[dueCount % GET_CONNECTIONS]!.request(`get k${key}\r\n`, answerBytes);
    }
  });
}

export function pickKey(keyCount: number, random: Random): number {
  const hotCount = Math.max(1, Math.floor(keyCount * HOT_KEY_SHARE));
  if (random() < HOT_GET_SHARE) return Math.floor(random() * hotCount);
  return hotCount + Math.floor(random() * (keyCount - hotCount));
}

function repeat(everyMs: number, signal: AbortSignal, work: () => void): void {
  const timer = setInterval(work, everyMs);
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });
}
