/**
 * How good one restore's prediction was. Withheld pages are counted separately: their faults are the price of learning,
 * not misses of the predictor.
 *
 * It is hidden which prefetched pages were touched, so there are two bases. `touched`: the caller knows the touched
 * pages (a benchmark reads accessed bits), and everything is counted in pages. `withheld`: the share of withheld
 * units that faulted estimates the share of prefetched units that were touched; everything is estimated in units
 * (units.ts), and a unit with one touched page counts as used. `none`: nothing was withheld, or the trace cannot
 * tell.
 */
import type { PageBitmap } from '../pages/bitmap.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { countPages, pagesOf, type PageRuns } from './runs.js';
import { tellsAbsence, type RestoreTrace } from './trace.js';
import type { InstallUnits } from './units.js';

export const SCORE_BASES = { none: 0, withheld: 1, touched: 2 } as const;
export type ScoreBasis = keyof typeof SCORE_BASES;

export interface ScoreCounts {
  readonly prefetchedPages: number;
  readonly withheldPages: number;
  readonly withheldUnits: number;
  /** Withheld units that faulted. */
  readonly withheldFaults: number;
  /** Units that faulted on pages that had not been predicted. */
  readonly missFaults: number;
  /** Units that faulted although they were prefetched: the prefetch came too late. */
  readonly lateFaults: number;
}

export interface RestoreScore extends ScoreCounts {
  /** Wall clock, milliseconds since 1970. */
  readonly resumedAtMs: number;
  readonly basis: ScoreBasis;
  /** Share of the prefetched memory that was touched, 0 to 1; undefined when unknown or when nothing was prefetched. */
  readonly precision: number | undefined;
  /** Share of the touched memory, without withheld pages, that was prefetched; undefined when unknown. */
  readonly recall: number | undefined;
  /** Memory that was prefetched and not touched; undefined when unknown. */
  readonly wastedBytes: number | undefined;
}

/** `touched`: every page that the guest touched, including faults, if known. */
export function scoreRestore(trace: RestoreTrace, units: InstallUnits, touched?: PageBitmap): RestoreScore {
  const { counts, prefetchedUnits } = countUnits(trace, units);
  const { resumedAtMs } = trace;
  if (touched !== undefined) return { resumedAtMs, ...counts, ...scoreTouched(trace, touched) };
  const unknown = { basis: 'none', precision: undefined, recall: undefined, wastedBytes: undefined } as const;
  if (counts.prefetchedPages === 0)
    return { resumedAtMs, ...counts, ...unknown, recall: ratio(0, counts.missFaults), wastedBytes: 0 };
  if (counts.withheldUnits === 0 || !tellsAbsence(trace)) return { resumedAtMs, ...counts, ...unknown };
  const precision = counts.withheldFaults / counts.withheldUnits;
  const usedUnits = precision * prefetchedUnits;
  return {
    resumedAtMs,
    ...counts,
    basis: 'withheld',
    precision,
    recall: ratio(usedUnits, usedUnits + counts.missFaults),
    wastedBytes: Math.round((1 - precision) * counts.prefetchedPages) * PAGE_BYTES,
  };
}

function countUnits(
  trace: RestoreTrace,
  units: InstallUnits,
): { counts: ScoreCounts; prefetchedUnits: number } {
  const leadersOf = (pages: Iterable<number>): Set<number> => {
    const leaders = new Set<number>();
    for (const page of pages) leaders.add(units.leaderOf(page));
    return leaders;
  };
  const prefetched = leadersOf(pagesOf(trace.prefetched));
  const withheld = leadersOf(pagesOf(trace.withheld));
  let [withheldFaults, missFaults, lateFaults] = [0, 0, 0];
  const early = new Set(pagesOf(trace.prefetched));
  const late = leadersOf(trace.faultPages.filter((page) => early.has(page)));
  for (const leader of leadersOf(trace.faultPages)) {
    if (withheld.has(leader)) withheldFaults++;
    else if (late.has(leader)) lateFaults++;
    else missFaults++;
  }
  const counts = {
    prefetchedPages: countPages(trace.prefetched),
    withheldPages: countPages(trace.withheld),
    withheldUnits: withheld.size,
    withheldFaults,
    missFaults,
    lateFaults,
  };
  return { counts, prefetchedUnits: prefetched.size };
}

function scoreTouched(
  { prefetched, withheld }: RestoreTrace,
  touched: PageBitmap,
): Pick<RestoreScore, 'basis' | 'precision' | 'recall' | 'wastedBytes'> {
  const touchedOf = (runs: PageRuns): number => {
    let count = 0;
    for (const page of pagesOf(runs)) count += Number(touched.has(page));
    return count;
  };
  const prefetchedPages = countPages(prefetched);
  const used = touchedOf(prefetched);
  return {
    basis: 'touched',
    precision: ratio(used, prefetchedPages),
    recall: ratio(used, touched.count - touchedOf(withheld)),
    wastedBytes: (prefetchedPages - used) * PAGE_BYTES,
  };
}

function ratio(part: number, whole: number): number | undefined {
  return whole === 0 ? undefined : part / whole;
}
