/** Takes captures at an interval while clients use the guest: what they cost, and how much time its clock loses. */
import { setTimeout as sleep } from 'node:timers/promises';
import { nowMs, roundMs } from '../../timeline/clock.js';
import { Clients } from '../clients/clients.js';
import type { Answers } from '../clients/load.js';
import type { Heartbeat } from '../console.js';
import { collectGarbage } from '../garbage.js';
import { longestGap, quantile, spreadOf } from '../measure.js';
import { hugePageBytesOf } from '../sampler.js';
import type { SaveFigures } from './figures.js';
import type { Capture, SaveRun } from './save-report.js';
import type { SaveScenario } from './scenarios.js';
import { runOf, type RoundPlace, type SaveWorkshop } from './workshop.js';

/** The clients offer more gets than the guest can answer. Its speed, and the number of gets under way, limit them. */
const GETS_PER_S = 20_000;
/** By then the emulator has translated the code that the clients make the guest run. */
const SETTLE_MS = 5_000;
const KEPT_GENERATIONS = 3;
const NAME = 'series';

export interface Series {
  readonly scenario: SaveScenario;
  /** Undefined: none. */
  readonly everyMs: number | undefined;
}

export const SERIES: readonly Series[] = [
  { scenario: 'undisturbed', everyMs: undefined },
  { scenario: 'every-10s', everyMs: 10_000 },
  { scenario: 'every-1s', everyMs: 1_000 },
];

interface Captured {
  readonly captures: Capture[];
  readonly missedCaptures: number;
}

export async function measureSeries(
  { scenario, everyMs }: Series,
  workshop: SaveWorkshop,
  place: RoundPlace,
): Promise<SaveRun> {
  const { guest, values, captureMs, signal } = workshop;
  const seed = workshop.seed + place.round;
  const job = { ports: guest.ports, values, seed, getsPerS: GETS_PER_S, withoutDownloads: true } as const;
  const clients = await Clients.prepare(job);
  try {
    // The first capture reads all memory, which is not what a series costs.
    if (everyMs !== undefined) await workshop.verb.save(NAME, workshop.verb.trackArgs);
    clients.begin();
    await sleep(SETTLE_MS, undefined, { signal });
    collectGarbage();
    const hugePagesBefore = hugePageBytesOf(guest.pid);
    const before = await guest.console.nextHeartbeat();
    const startMs = nowMs();
    const { captures, missedCaptures } =
      everyMs === undefined
        ? await nothing(captureMs, signal)
        : await captureEvery(everyMs, workshop, startMs);
    const observedMs = nowMs() - startMs;
    const after = await guest.console.nextHeartbeat();
    const hugePagesAfter = hugePageBytesOf(guest.pid);
    const { memcached, ping } = await clients.end();
    const gets = within(memcached, startMs, observedMs);
    const figures: SaveFigures = {
      ...getFigures(gets, observedMs),
      longestGapMs: longestGap(within(ping, startMs, observedMs).answeredMs, observedMs),
      clockLossMsPerMin: clockLoss(before, after),
      ...(hugePagesBefore !== null && { hugePagesBeforeBytes: hugePagesBefore }),
      ...(hugePagesAfter !== null && { hugePagesAfterBytes: hugePagesAfter }),
      ...(everyMs !== undefined && { ...captureFigures(captures), missedCaptures }),
    };
    return runOf(scenario, workshop, place, { figures, captures, getsEachS: countEachS(gets, observedMs) });
  } finally {
    await clients.terminate();
    if (everyMs !== undefined) await workshop.verb.endTracking(NAME);
    await workshop.verb.forget(NAME);
  }
}

async function nothing(captureMs: number, signal: AbortSignal): Promise<Captured> {
  await sleep(captureMs, undefined, { signal });
  return { captures: [], missedCaptures: 0 };
}

/** Takes one at a time, and leaves out those that were due meanwhile. */
async function captureEvery(
  everyMs: number,
  { verb, captureMs, signal }: SaveWorkshop,
  startMs: number,
): Promise<Captured> {
  const captures: Capture[] = [];
  const args = [...verb.trackArgs, '--keep-last', String(KEPT_GENERATIONS)];
  let missedCaptures = 0;
  for (let dueMs = startMs + everyMs; dueMs <= startMs + captureMs; dueMs += everyMs) {
    for (; dueMs + everyMs < nowMs() && dueMs + everyMs <= startMs + captureMs; dueMs += everyMs)
      missedCaptures++;
    await sleep(Math.max(0, dueMs - nowMs()), undefined, { signal });
    const startedMs = roundMs(nowMs() - startMs);
    const { totalMs, pauseMs, storedBytes } = await verb.save(NAME, args);
    captures.push({ startedMs, totalMs, pauseMs, storedBytes });
  }
  return { captures, missedCaptures };
}

function captureFigures(captures: readonly Capture[]): SaveFigures {
  const pause = spreadOf(captures.map(({ pauseMs }) => pauseMs));
  const total = spreadOf(captures.map(({ totalMs }) => totalMs));
  const stored = spreadOf(captures.map(({ storedBytes }) => storedBytes));
  return {
    captureCount: captures.length,
    ...(pause && { pauseMs: pause.median, pauseMaxMs: pause.max }),
    ...(total && { totalMs: total.median }),
    ...(stored && { storedBytes: stored.median }),
  };
}

interface Gets {
  /** Milliseconds since the observation began. */
  readonly answeredMs: readonly number[];
  readonly latencyMs: readonly number[];
}

function within({ sentAtMs, answeredAtMs }: Answers, startMs: number, observedMs: number): Gets {
  const answers = answeredAtMs
    .map((atMs, at) => ({ answeredMs: atMs - startMs, latencyMs: atMs - sentAtMs[at]! }))
    .filter(({ answeredMs }) => answeredMs >= 0 && answeredMs < observedMs);
  return {
    answeredMs: answers.map(({ answeredMs }) => answeredMs),
    latencyMs: answers.map(({ latencyMs }) => latencyMs),
  };
}

function getFigures({ answeredMs, latencyMs }: Gets, observedMs: number): SaveFigures {
  const p99Ms = quantile(
    latencyMs.toSorted((a, b) => a - b),
    0.99,
  );
  const getsPerS = (answeredMs.length * 1000) / observedMs;
  return { getsPerS, ...(p99Ms !== null && { getP99Ms: roundMs(p99Ms) }) };
}

function countEachS({ answeredMs }: Gets, observedMs: number): number[] {
  const counts = Array.from({ length: Math.floor(observedMs / 1000) }, () => 0);
  for (const atMs of answeredMs) {
    const second = Math.floor(atMs / 1000);
    if (second < counts.length) counts[second]!++;
  }
  return counts;
}

/** Milliseconds that the guest's clock falls behind in a minute of the host's; the console's delay is in it. */
function clockLoss(before: Heartbeat, after: Heartbeat): number {
  const hostMs = after.atMs - before.atMs;
  const guestMs = after.guestMs - before.guestMs;
  return roundMs(((hostMs - guestMs) * 60_000) / hostMs);
}
