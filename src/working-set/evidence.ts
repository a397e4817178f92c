/**
 * What a trace proves about units (see units.ts). Only two things are evidence: a unit faulted; or it was predicted,
 * withheld, and did not fault. A prefetched unit proves nothing, because prefetching hides whether it was touched. A
 * unit that was neither predicted nor faulted proves little, because the background soon loaded it.
 */
import { pagesOf } from './runs.js';
import { tellsAbsence, type RestoreTrace } from './trace.js';
import type { InstallUnits } from './units.js';

/** When a unit is first touched. The number is its index among the histogram's bins. */
export const TOUCH_CLASSES = { early: 0, soon: 1, late: 2 } as const;
export type TouchClass = (typeof TOUCH_CLASSES)[keyof typeof TOUCH_CLASSES];
export const TOUCH_CLASS_COUNT = Object.keys(TOUCH_CLASSES).length;

const EARLY_BELOW_US = 100_000;
const SOON_BELOW_US = 1_000_000;

export interface Evidence {
  /** Leaders of the units that faulted, each with its first fault. */
  readonly touched: ReadonlyMap<number, TouchClass>;
  /** Leaders of the units that were withheld and did not fault. Empty when the trace cannot show that. */
  readonly untouched: ReadonlySet<number>;
  /** Whether the trace can show the absence of a fault at all. */
  readonly tellsAbsence: boolean;
}

export function touchClassOf(sinceResumeUs: number): TouchClass {
  if (sinceResumeUs < EARLY_BELOW_US) return TOUCH_CLASSES.early;
  return sinceResumeUs < SOON_BELOW_US ? TOUCH_CLASSES.soon : TOUCH_CLASSES.late;
}

/** @param known leaders of units that were learned before: an exact trace, whose VM was slower, only adds to them */
export function evidenceOf(trace: RestoreTrace, units: InstallUnits, known: Iterable<number> = []): Evidence {
  const touched = new Map<number, TouchClass>();
  for (const [i, page] of trace.faultPages.entries()) {
    const leader = units.leaderOf(page);
    const touch = touchClassOf(trace.faultTimesUs[i]!);
    if (touch < (touched.get(leader) ?? TOUCH_CLASS_COUNT)) touched.set(leader, touch);
  }
  if (trace.isExact) {
    for (const leader of known) touched.delete(leader);
    return { touched, untouched: new Set(), tellsAbsence: false };
  }
  const untouched = new Set<number>();
  if (tellsAbsence(trace))
    for (const page of pagesOf(trace.withheld)) {
      const leader = units.leaderOf(page);
      if (!touched.has(leader)) untouched.add(leader);
    }
  return { touched, untouched, tellsAbsence: tellsAbsence(trace) };
}
