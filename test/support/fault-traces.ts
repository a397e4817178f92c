/**
 * Synthetic restores for tests of the predictor, deterministic by seed. They have what published traces have: the
 * sets of two runs overlap with a Jaccard index of about 0.93, their order does not repeat, every run touches a few
 * units that none touches again, and several pages of a unit are touched, a different one first each time.
 */
import { pagesOf } from '../../src/working-set/runs.js';
import { prefetchedBy, type PrefetchPlan } from '../../src/working-set/plan.js';
import { TraceRecorder, type RestoreTrace } from '../../src/working-set/trace.js';
import type { InstallUnits } from '../../src/working-set/units.js';

export const UNIT_PAGES = 8;
/** 1 GiB. */
export const RAM_PAGES = 1 << 18;
/** The background comes by every page, in address order, within this time. */
const BACKGROUND_US = 4_000_000;
const ONE_OFF_SHARE = 0.015;

/** Extents of eight pages side by side. */
export const alignedUnits: InstallUnits = {
  pageCount: RAM_PAGES,
  holdsData: () => true,
  leaderOf: (page) => page - (page % UNIT_PAGES),
  membersOf: (page) => Array.from({ length: UNIT_PAGES }, (_, slot) => page - (page % UNIT_PAGES) + slot),
};

export function leadersIn(pages: Iterable<number>): Set<number> {
  return new Set(Array.from(pages, (page) => alignedUnits.leaderOf(page)));
}

export interface Touch {
  readonly page: number;
  readonly sinceResumeUs: number;
}

interface WorkloadUnit {
  readonly leader: number;
  /** That a run touches it. */
  readonly probability: number;
  readonly usualUs: number;
  readonly touchedPages: number;
}

export type Workload = readonly WorkloadUnit[];

/** 0 ≤ x < 1, from the upper bits of a linear congruential generator (constants of Knuth's MMIX). */
export function randomNumbers(seed: number): () => number {
  let state = BigInt(seed);
  return () => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffff_ffff_ffff_ffffn;
    return Number(state >> 32n) / 2 ** 32;
  };
}

/** Units in clusters, half of them touched early, a third soon, the others late; some not by every run. */
export function makeWorkload(seed: number, unitCount: number): Workload {
  const random = randomNumbers(seed);
  const leaders = new Set<number>();
  while (leaders.size < unitCount) {
    const cluster = Math.floor(random() * (RAM_PAGES / UNIT_PAGES - 16));
    for (let unit = 0; unit < 16 && leaders.size < unitCount; unit++)
      if (random() < 0.5) leaders.add((cluster + unit) * UNIT_PAGES);
  }
  return [...leaders].map((leader) => ({
    leader,
    probability: random() < 0.08 ? 0.8 : 0.995,
    usualUs: usualTimeUs(random),
    touchedPages: 1 + Math.floor(random() * UNIT_PAGES),
  }));
}

function usualTimeUs(random: () => number): number {
  const kind = random();
  if (kind < 0.5) return random() * 100_000;
  return kind < 0.83 ? 100_000 + random() * 900_000 : 1_000_000 + random() * 1_000_000;
}

/** One run of the workload: its touches in the order of time. */
export function runWorkload(workload: Workload, seed: number): Touch[] {
  const random = randomNumbers(seed);
  const touches: Touch[] = [];
  for (const unit of workload) {
    if (random() >= unit.probability) continue;
    for (let i = 0; i < unit.touchedPages; i++)
      touches.push({
        page: unit.leader + Math.floor(random() * UNIT_PAGES),
        sinceResumeUs: Math.floor(unit.usualUs * (0.5 + random())),
      });
  }
  for (let i = 0; i < workload.length * ONE_OFF_SHARE; i++)
    touches.push({
      page: Math.floor(random() * RAM_PAGES),
      sinceResumeUs: Math.floor(random() * 1_000_000),
    });
  return touches.sort((a, b) => a.sinceResumeUs - b.sinceResumeUs);
}

const NOTHING = new Uint32Array();
export const NO_PLAN: PrefetchPlan = {
  beforeResume: NOTHING,
  afterResume: [],
  warm: NOTHING,
  beside: NOTHING,
  likely: NOTHING,
  withheld: NOTHING,
  restMs: 0,
  explorePhase: 0,
};

/** A restore: what touches a unit first faults, unless the plan or the background was there before it. */
export function simulateRestore(plan: PrefetchPlan, touches: readonly Touch[]): RestoreTrace {
  const prefetched = prefetchedBy(plan);
  const inPlace = leadersIn(pagesOf(prefetched));
  const withheld = leadersIn(pagesOf(plan.withheld));
  const recorder = new TraceRecorder();
  for (const { page, sinceResumeUs } of touches) {
    const leader = alignedUnits.leaderOf(page);
    const backgroundUs = withheld.has(leader) ? Infinity : (leader / RAM_PAGES) * BACKGROUND_US;
    if (!inPlace.has(leader) && sinceResumeUs < backgroundUs) recorder.fault(page, sinceResumeUs);
    inPlace.add(leader);
  }
  return recorder.finish({
    resumedAtMs: 1_700_000_000_000,
    runId: 1n,
    generation: 1,
    pageCount: RAM_PAGES,
    prefetched,
    withheld: plan.withheld,
    explorePhase: plan.explorePhase,
    isComplete: true,
    isExact: false,
  });
}

/** Leaders of the units that would fault without any prediction: all that a prefetch can save. */
export function demandOf(touches: readonly Touch[]): Set<number> {
  return leadersIn(simulateRestore(NO_PLAN, touches).faultPages);
}

export function jaccard(a: ReadonlySet<number>, b: ReadonlySet<number>): number {
  const common = [...a].filter((one) => b.has(one)).length;
  return common / (a.size + b.size - common);
}
