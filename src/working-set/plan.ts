/**
 * What is loaded into a restored machine's memory before anything requests it, and in which order:
 *
 * 1. `beforeResume`: among the units that are usually touched within 100 ms, the hottest that fit the time budget;
 * 2. `afterResume`: the rest of the set, units that are touched sooner first, by several threads;
 * 3. `beside`: the other pages of these units, where a restore has shown which of them are touched;
 * 4. `warm`: units outside the set that still have heat, the hottest first. They come before the rest, but are not
 *    predicted, because they are probably not touched;
 * 5. `likely`: memory around hot units: regions of 2 MiB, those with the most heat first, each in address order. Pages
 *    that are in place or withheld are skipped. The remaining cold memory has no order;
 * 6. `withheld`: members that only a fault may load until everything else is in place. Whether they fault is the only
 *    evidence of what prefetching hides.
 *
 * How units are withheld: a hash with the seed of the working set assigns each unit to one of 1/explore slots, and
 * each restore withholds the slot given by its `phase`. That is a random share of the set, and every member has its
 * turn within 1/explore restores, which bounds how long a stale one stays.
 */
import { PageBitmap } from '../pages/bitmap.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { TOUCH_CLASSES, type TouchClass } from './evidence.js';
import { heatOf, usualTouch, type AdaptiveHistogram, type HeatEntry } from './histogram.js';
import { pagesOf, RunList, runsOf, type PageRuns } from './runs.js';
import type { InstallUnits } from './units.js';

export const DEFAULT_PREFETCH_BUDGET_MS = 20;
export const DEFAULT_EXPLORE = 0.01;
export const MAX_EXPLORE = 0.5;
/**
 * After what earlier restores have touched is loaded, the VM has the processors to itself for this long. Without
 * earlier restores the VM will request so much that the rest follows at once.
 */
const REST_MS = 1_000;
/** Pages of one region of `likely`: the assumed range of locality. */
const REGION_PAGES = 512;
/** If not measured, 1 GiB/s for reading, verifying, decompressing and installing, all threads together. */
export const DEFAULT_FILL_BYTES_PER_MS = (1 << 30) / 1000;

export interface PrefetchWishes {
  /** Time for `beforeResume`; 0 for none. */
  readonly budgetMs: number;
  /** The share of the set to withhold, 0 to MAX_EXPLORE. */
  readonly explore: number;
}

export const DEFAULT_WISHES: PrefetchWishes = {
  budgetMs: DEFAULT_PREFETCH_BUDGET_MS,
  explore: DEFAULT_EXPLORE,
};

export interface PlanOptions extends Partial<PrefetchWishes> {
  /** How fast memory can be filled from this checkpoint on this host. */
  readonly fillBytesPerMs?: number | undefined;
}

/** Determines which units are withheld. */
export interface Exploration {
  /** Random, 32 bits; never changes for one working set. */
  readonly seed: number;
  /** Grows by one with every restore. */
  readonly phase: number;
}

export interface PrefetchPlan {
  /** A set, like all parts except `warm` and `likely`: disjoint runs in address order. */
  readonly beforeResume: PageRuns;
  /** Sets of pages by TouchClass, to be loaded one after the other. */
  readonly afterResume: readonly PageRuns[];
  readonly warm: PageRuns;
  readonly beside: PageRuns;
  readonly likely: PageRuns;
  readonly withheld: PageRuns;
  /** From the start of the background until `likely` and everything that is not named here. */
  readonly restMs: number;
  /** Recorded in the restore's trace. */
  readonly explorePhase: number;
}

export interface PlanInput {
  readonly histogram: AdaptiveHistogram;
  readonly exploration: Exploration;
  readonly units: InstallUnits;
  /** A set of pages that are known to be touched. Of a unit that holds some, only these are predicted. */
  readonly touched: PageRuns;
  /** How many restores taught it. */
  readonly restoreCount: number;
}

/** An empty histogram gives an empty plan. @throws RangeError for options out of range; what `units` throws */
export function planPrefetch(
  { histogram, exploration, units, touched, restoreCount }: PlanInput,
  {
    budgetMs = DEFAULT_PREFETCH_BUDGET_MS,
    fillBytesPerMs = DEFAULT_FILL_BYTES_PER_MS,
    explore = DEFAULT_EXPLORE,
  }: PlanOptions = {},
): PrefetchPlan {
  requireRange('budgetMs', budgetMs, Number.MAX_SAFE_INTEGER);
  requireRange('fillBytesPerMs', fillBytesPerMs, Number.MAX_SAFE_INTEGER);
  const isWithheld = withheldBy(exploration, explore);
  const take = pageTaker(units);
  const isTouched = bitmapOf(touched, units.pageCount);
  const hottestFirst = histogram.entries
    .filter(({ leader }) => leader < units.pageCount)
    .sort((a, b) => heatOf(b) - heatOf(a) || a.leader - b.leader);
  let budgetPages = (budgetMs * fillBytesPerMs) / PAGE_BYTES;
  const [before, beside, withheld]: [number[], number[], number[]] = [[], [], []];
  const after: [number[], number[], number[]] = [[], [], []];
  for (const entry of hottestFirst.filter(({ isMember }) => isMember)) {
    const all = take(entry);
    if (isWithheld(entry.leader)) {
      withheld.push(...all);
      continue;
    }
    const known = units.holdsData(entry.leader) ? all.filter((page) => isTouched.has(page)) : [];
    const pages = known.length === 0 ? all : known;
    if (known.length > 0) beside.push(...all.filter((page) => !isTouched.has(page)));
    const touch: TouchClass = usualTouch(entry);
    if (touch === TOUCH_CLASSES.early && pages.length <= budgetPages) {
      budgetPages -= pages.length;
      before.push(...pages);
    } else after[touch].push(...pages);
  }
  const warm = new RunList();
  for (const entry of hottestFirst.filter(({ isMember }) => !isMember))
    for (const page of take(entry)) warm.add(page);
  return {
    beforeResume: runsOf(before),
    afterResume: after.map(runsOf),
    warm: warm.finish(),
    beside: runsOf(beside),
    likely: hotRegions(hottestFirst, units.pageCount),
    withheld: runsOf(withheld),
    restMs: restoreCount === 0 ? 0 : REST_MS,
    explorePhase: exploration.phase,
  };
}

/** The set of all pages that a plan prefetches, as the trace records it. */
export function prefetchedBy({ beforeResume, afterResume }: PrefetchPlan): PageRuns {
  const all = [beforeResume, ...afterResume].flatMap((runs) =>
    Array.from({ length: runs.length / 2 }, (_, i) => [runs[2 * i]!, runs[2 * i + 1]!] as const),
  );
  const merged = new RunList();
  let next = 0;
  for (const [firstPage, pageCount] of all.sort(([a], [b]) => a - b)) {
    const first = Math.max(firstPage, next);
    next = Math.max(next, firstPage + pageCount);
    if (next > first) merged.add(first, next - first);
  }
  return merged.finish();
}

function bitmapOf(runs: PageRuns, pageCount: number): PageBitmap {
  const bitmap = new PageBitmap(pageCount);
  for (const page of pagesOf(runs)) bitmap.claim(page);
  return bitmap;
}

/** Yields the pages of a unit only once: two entries (from another generation, or made up) may share a unit. */
function pageTaker(units: InstallUnits): (entry: HeatEntry) => number[] {
  const taken = new PageBitmap(units.pageCount);
  return ({ leader }) => units.membersOf(leader).filter((page) => taken.claim(page));
}

function withheldBy({ seed, phase }: Exploration, explore: number): (leader: number) => boolean {
  requireRange('explore', explore, MAX_EXPLORE);
  if (explore === 0) return () => false;
  const slotCount = Math.round(1 / explore);
  return (leader) => scattered(leader, seed) % slotCount === phase % slotCount;
}

/** A hash of 32 bits: the finaliser of MurmurHash3 (Appleby, public domain) over page and seed. */
function scattered(page: number, seed: number): number {
  let hash = page ^ seed;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function hotRegions(entries: readonly HeatEntry[], pageCount: number): PageRuns {
  const heat = new Map<number, number>();
  for (const entry of entries) {
    const region = Math.floor(entry.leader / REGION_PAGES);
    heat.set(region, (heat.get(region) ?? 0) + heatOf(entry));
  }
  const likely = new RunList();
  for (const [region] of [...heat].sort(([a, ofA], [b, ofB]) => ofB - ofA || a - b)) {
    const firstPage = region * REGION_PAGES;
    likely.add(firstPage, Math.min(REGION_PAGES, pageCount - firstPage));
  }
  return likely.finish();
}

function requireRange(name: string, value: number, max: number): void {
  if (!(value >= 0 && value <= max)) throw new RangeError(`${name} is ${value}, expected 0 to ${max}`);
}
