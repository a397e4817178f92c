/** What is known about a generation's restores. The story of learning from one more. */
import type { PageBitmap } from '../pages/bitmap.js';
import { evidenceOf } from './evidence.js';
import { AdaptiveHistogram, type LearningOptions } from './histogram.js';
import type { Exploration } from './plan.js';
import { scoreRestore, type RestoreScore } from './score.js';
import { pagesOf, runsOf, type PageRuns } from './runs.js';
import { MAX_TRACE_RUNS, type RestoreTrace } from './trace.js';
import type { InstallUnits } from './units.js';
import { randomU32 } from '../util/random.js';

export const MAX_SCORES = 16;

/** What the next restore's plan is based on. */
export interface Foundation {
  /** Of the whole RAM. */
  readonly pageCount: number;
  readonly histogram: AdaptiveHistogram;
  /** Pages that an exact restore has shown to be touched; empty without such a restore. */
  readonly touched: PageRuns;
  readonly exploration: Exploration;
  /** How many restores taught it. */
  readonly restoreCount: number;
}

export interface WorkingSet extends Foundation {
  /** Of the latest restores, oldest first, at most MAX_SCORES. */
  readonly scores: readonly RestoreScore[];
  readonly lastTrace: RestoreTrace | undefined;
}

export function newWorkingSet(pageCount: number): WorkingSet {
  return {
    pageCount,
    histogram: AdaptiveHistogram.empty,
    touched: new Uint32Array(0),
    exploration: { seed: randomU32(), phase: 0 },
    restoreCount: 0,
    scores: [],
    lastTrace: undefined,
  };
}

export interface RestoreLesson {
  readonly trace: RestoreTrace;
  readonly units: InstallUnits;
  /** The pages that the guest touched, if known (see score.ts). */
  readonly touched?: PageBitmap | undefined;
}

/** @throws what `units` throws */
export function learnRestore(
  known: WorkingSet,
  { trace, units, touched }: RestoreLesson,
  options: LearningOptions = {},
): WorkingSet {
  const { seed, phase } = known.exploration;
  const leaders = known.histogram.entries.map(({ leader }) => leader);
  // Restores with the same phase may have run at the same time. They count as one turn, so that none is skipped.
  const nextPhase = Math.max(phase, trace.explorePhase + 1) >>> 0;
  return {
    ...known,
    histogram: known.histogram.learn(evidenceOf(trace, units, leaders), options),
    touched: touchedAfter(known.touched, trace),
    exploration: { seed, phase: nextPhase },
    restoreCount: known.restoreCount + 1,
    scores: [...known.scores, scoreRestore(trace, units, touched)].slice(-MAX_SCORES),
    lastTrace: trace,
  };
}

/** Learns from the pages that the guest wrote to during a live save. @throws what `units` throws */
export function learnDirtyPages(
  known: WorkingSet,
  { pages, units }: { readonly pages: Iterable<number>; readonly units: InstallUnits },
  options: LearningOptions = {},
): WorkingSet {
  const leaders = new Set<number>();
  for (const page of pages) leaders.add(units.leaderOf(page));
  return { ...known, histogram: known.histogram.feedDirty(leaders, options) };
}

/** What the last exact restore has shown, together with what other restores requested since. */
function touchedAfter(known: PageRuns, { isExact, faultPages }: RestoreTrace): PageRuns {
  if (isExact) return runsOf(faultPages).subarray(0, 2 * MAX_TRACE_RUNS);
  if (known.length === 0) return known;
  return runsOf([...new Set([...pagesOf(known), ...faultPages])]).subarray(0, 2 * MAX_TRACE_RUNS);
}
