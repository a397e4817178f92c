/** One measurement: prepares the host, starts the clients, restores once, and examines the guest ten seconds later. */
import { statSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HOT_PACK_FILE } from '../checkpoint/format.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { withDeadline } from '../util/deadline.js';
import { CLIENT_NAMES, type ClientAnswers, type ClientName } from './clients/load.js';
import { Clients } from './clients/clients.js';
import { Console } from './console.js';
import { collectGarbage } from './garbage.js';
import { bringTo, cachedBytes, type CacheState } from './page-cache.js';
import { killAndWait, killProcessesOf } from './processes.js';
import type { ClientSamples, Run, Sampled } from './resume-report.js';
import { hugePageBytesOf, Sampler } from './sampler.js';
import type { Restored, SavedGuest, Scenario } from './scenario.js';
import { settleHost } from './workplace.js';
import type { MemcachedLoad } from './workloads.js';

const VERIFY_TIMEOUT_MS = 600_000;
/** In this time the clients try a closed port. Their first steps take CPU time that is not part of a restore. */
const CLIENTS_WARM_UP_MS = 300;

export interface Room {
  readonly runtimeDir: string;
  /** What the guest's memcached holds. */
  readonly values: Omit<MemcachedLoad, 'port'>;
  /** How long the guest is watched once it runs. */
  readonly observeMs: number;
}

export interface Measurement {
  readonly scenario: Scenario;
  readonly cache: CacheState;
  readonly round: number;
  readonly seed: number;
}

/** Returns what was measured, without comparing it. Everything that it started has ended. */
export async function measure(
  { scenario, cache, round, seed }: Measurement,
  saved: SavedGuest,
  { runtimeDir, values, observeMs }: Room,
): Promise<Sampled> {
  const { guest, files, signal } = saved;
  await settleHost(guest.ramBytes);
  await bringTo(cache, files);
  signal.throwIfAborted();
  const clients = await Clients.prepare({ ports: guest.ports, values, seed });
  const hotPack = files.find((file) => path.basename(file) === HOT_PACK_FILE);
  const sampler = new Sampler(runtimeDir);
  try {
    clients.begin();
    await sleep(CLIENTS_WARM_UP_MS, undefined, { signal });
    collectGarbage();
    const restored = await scenario.restore(saved);
    const storageReadBytes = cache === 'cold' ? await cachedBytes(files) : null;
    const observedUntilMs = Math.max(restored.resumedAtMs + observeMs, nowMs());
    await sleep(observedUntilMs - nowMs(), undefined, { signal });
    const answers = await clients.end();
    sampler.stop();
    return {
      scenario: scenario.name,
      cache,
      round,
      ramMib: guest.ramBytes / 2 ** 20,
      ...timesOf(restored),
      ...(restored.report && transferOf(restored.report, sampler)),
      storageReadBytes,
      ...(hotPack !== undefined && { hotPackBytes: statSync(hotPack).size }),
      observedMs: roundMs(observedUntilMs - restored.orderedAtMs),
      resident: sampler.samples.map(({ atMs, residentBytes }) => ({
        ms: roundMs(atMs - restored.orderedAtMs),
        residentBytes,
      })),
      answers: samplesOf(answers, restored.orderedAtMs),
      later: await lookLater(saved, restored),
    };
  } finally {
    sampler.stop();
    await clients.terminate();
    killProcessesOf(runtimeDir);
  }
}

function timesOf({ orderedAtMs, spawnedAtMs, resumedAtMs, completeAtMs }: Restored) {
  return {
    orderedToSpawnMs: roundMs(spawnedAtMs - orderedAtMs),
    resumeMs: roundMs(resumedAtMs - spawnedAtMs),
    completeMs: completeAtMs === null ? null : roundMs(completeAtMs - spawnedAtMs),
  };
}

function transferOf(
  report: NonNullable<Restored['report']>,
  { helperPeakBytes }: Sampler,
): Pick<Run, 'transfer'> {
  const { demandFaults, withheldFaults, prefetchedPages } = report;
  const { transferredBytes, faultUs, faultPercentilesUs, vcpuBlockedMs } = report;
  return {
    transfer: {
      path: report.path,
      demandFaults,
      withheldFaults,
      prefetchedPages,
      transferredBytes,
      faultUs,
      faultPercentilesUs: faultPercentilesUs && [...faultPercentilesUs],
      vcpuBlockedMs,
      processPeakBytes: helperPeakBytes,
    },
  };
}

function samplesOf(answers: ClientAnswers, orderedAtMs: number): Record<ClientName, ClientSamples> {
  const relative = ({ sentAtMs, answeredAtMs }: ClientAnswers[ClientName]): ClientSamples => ({
    answeredMs: answeredAtMs.map((atMs) => round(atMs - orderedAtMs)),
    latencyMs: answeredAtMs.map((atMs, at) => round(atMs - sentAtMs[at]!)),
  });
  return Object.fromEntries(CLIENT_NAMES.map((name) => [name, relative(answers[name])])) as Record<
    ClientName,
    ClientSamples
  >;
}

/** Clients read the clock once in a millisecond, so more digits say nothing, and there are very many times. */
function round(ms: number): number {
  return Math.round(ms * 100) / 100;
}

/** Measures how fast the guest reads its memory now, and asks it whether all of it is right. */
async function lookLater({ guest, signal }: SavedGuest, { qemuPid }: Restored): Promise<Run['later']> {
  const hugePageBytes = hugePageBytesOf(qemuPid);
  const console = await Console.connect(guest.consoleSocket);
  try {
    const { ok, pageCount, verifyMs } = await withDeadline(console.verify(VERIFY_TIMEOUT_MS), {
      what: 'the guest to check its memory',
      timeoutMs: VERIFY_TIMEOUT_MS,
      signal,
    });
    return { hugePageBytes, memoryIntact: ok, verifiedPagesPerS: Math.round((pageCount * 1000) / verifyMs) };
  } finally {
    console.close();
    await killAndWait(qemuPid);
  }
}
