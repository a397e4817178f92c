/**
 * The adaptive histogram: how likely the next restore is to touch each unit (units.ts), learned from earlier restores.
 * After Gangadhar et al. 2018, Algorithm 1: heat h ← α·touched + (1 − α)·h; the set holds the units with h ≥ the mean.
 * h is kept in three bins, by the time of the first touch. All bins decay, and a touch feeds its own bin.
 *
 * The algorithm assumes that every touch is seen. Here prefetching hides most of them, so evidence is rare
 * (evidence.ts):
 * - **No evidence, no change.** A prefetched unit keeps its h and its place in the set. Membership is decided only
 *   when a unit has evidence. Otherwise the few withheld units, whose h rises, would lift the mean above all others;
 *   those would leave, fault, and come back, so the set would swing from run to run.
 * - **The mean is that of the set itself**, not of everything that was ever touched: units outside tell nothing about
 *   the quality of the set. A faulted unit joins when its h is above the mean. A withheld unit without a fault leaves
 *   when its h is below it. At the mean nothing changes, so a set of equal h is stable. Everything joins an empty set;
 *   later a unit needs a second touch, and never more than CERTAIN_TOUCHES in a row.
 * - **Units outside the set are forgotten.** The absence of a fault there is weak evidence (the background may have
 *   been first), and counts as much as dirty bits. Units touched once disappear after about 36 restores (α = ½).
 *
 * A stale unit leaves the set only through exploration: when it is withheld and does not fault, its h halves. Every
 * member is withheld once in 1/explore restores (plan.ts). One or two such turns are enough, because the mean of a set
 * taught by faults is at least ½.
 */
import { TOUCH_CLASSES, type Evidence, type TouchClass } from './evidence.js';

/** h = 1. Heat is an integer so that equal heats are exactly equal to their mean. */
export const FULL_HEAT = 1 << 15;
export const DEFAULT_ALPHA = 0.5;
/** Beyond this the coldest units are dropped, those outside the set first. With 8 pages per unit: 32 GiB. */
export const MAX_HISTOGRAM_UNITS = 1 << 20;

/** Fraction of α for dirty bits, and for an absence outside the set. */
const WEAK_WEIGHT = 1 / 4;
/** Colder units outside the set are forgotten. */
const FORGOTTEN_BELOW = FULL_HEAT / 256;
/** h after four touches in a row (α = ½): enough to join, whatever the mean is. */
const CERTAIN_TOUCHES = 4;
const CERTAIN_HEAT = FULL_HEAT - FULL_HEAT / 2 ** CERTAIN_TOUCHES;

/** Heat by TouchClass; each, and their sum, from 0 to FULL_HEAT. */
type Bins = readonly [number, number, number];

export interface HeatEntry {
  /** The page that names the unit. */
  readonly leader: number;
  readonly bins: Bins;
  readonly isMember: boolean;
}

export interface LearningOptions {
  /** How much one restore counts, above 0 and at most 1. */
  readonly alpha?: number | undefined;
}

/** Immutable; each step of learning returns a new one. */
export class AdaptiveHistogram {
  static readonly empty = new AdaptiveHistogram([]);

  /** Ascending by leader. */
  readonly entries: readonly HeatEntry[];

  constructor(entries: readonly HeatEntry[]) {
    this.entries = entries;
  }

  get memberCount(): number {
    return this.entries.reduce((count, { isMember }) => count + Number(isMember), 0);
  }

  /** Learns from one restore's evidence. */
  learn(evidence: Evidence, { alpha = DEFAULT_ALPHA }: LearningOptions = {}): AdaptiveHistogram {
    requireAlpha(alpha);
    const touches = new Map(evidence.touched);
    const mean = this.#meanOfMembers();
    const next: HeatEntry[] = [];
    for (const entry of this.entries) {
      const touch = touches.get(entry.leader);
      touches.delete(entry.leader);
      if (touch !== undefined) next.push(touched(entry, { touch, weight: alpha, mean }));
      else if (evidence.untouched.has(entry.leader)) next.push(untouched(entry, { weight: alpha, mean }));
      else if (entry.isMember || !evidence.tellsAbsence) next.push(entry);
      else next.push({ ...entry, bins: decayed(entry.bins, alpha * WEAK_WEIGHT) });
    }
    for (const [leader, touch] of touches) next.push(touched(cold(leader), { touch, weight: alpha, mean }));
    return settled(next);
  }

  /**
   * Learns from units that the guest wrote to during the save. The guest will continue there, so they count as touched
   * early, with a lower weight. They form the set until the first restore.
   */
  feedDirty(leaders: Iterable<number>, { alpha = DEFAULT_ALPHA }: LearningOptions = {}): AdaptiveHistogram {
    requireAlpha(alpha);
    const dirty = new Set(leaders);
    const feed = { touch: TOUCH_CLASSES.early, weight: alpha * WEAK_WEIGHT, mean: this.#meanOfMembers() };
    const next = this.entries.map((entry) => (dirty.delete(entry.leader) ? touched(entry, feed) : entry));
    for (const leader of dirty) next.push(touched(cold(leader), feed));
    return settled(next);
  }

  #meanOfMembers(): number {
    const heats = this.entries.filter(({ isMember }) => isMember).map(heatOf);
    return heats.length === 0 ? 0 : heats.reduce((sum, heat) => sum + heat, 0) / heats.length;
  }
}

/** h, from 0 to FULL_HEAT. */
export function heatOf({ bins }: HeatEntry): number {
  return bins[0] + bins[1] + bins[2];
}

/** The class in which half of the heat has accumulated. */
export function usualTouch(entry: HeatEntry): TouchClass {
  const half = heatOf(entry) / 2;
  if (entry.bins[TOUCH_CLASSES.early] >= half) return TOUCH_CLASSES.early;
  const bySoon = entry.bins[TOUCH_CLASSES.early] + entry.bins[TOUCH_CLASSES.soon];
  return bySoon >= half ? TOUCH_CLASSES.soon : TOUCH_CLASSES.late;
}

interface Feed {
  readonly touch: TouchClass;
  readonly weight: number;
  readonly mean: number;
}

function touched(entry: HeatEntry, { touch, weight, mean }: Feed): HeatEntry {
  const bins: [number, number, number] = [...decayed(entry.bins, weight)];
  bins[touch] += Math.floor(FULL_HEAT * weight);
  const next = { ...entry, bins };
  const heat = heatOf(next);
  return { ...next, isMember: entry.isMember || heat > mean || heat >= CERTAIN_HEAT };
}

function untouched(entry: HeatEntry, { weight, mean }: Omit<Feed, 'touch'>): HeatEntry {
  const next = { ...entry, bins: decayed(entry.bins, weight) };
  return { ...next, isMember: entry.isMember && heatOf(next) >= mean };
}

function decayed([early, soon, late]: Bins, weight: number): Bins {
  const keep = 1 - weight;
  return [Math.floor(early * keep), Math.floor(soon * keep), Math.floor(late * keep)];
}

function cold(leader: number): HeatEntry {
  return { leader, bins: [0, 0, 0], isMember: false };
}

/** Drops what is forgotten or exceeds the bound, and sorts. */
function settled(entries: HeatEntry[]): AdaptiveHistogram {
  let kept = entries.filter((entry) => entry.isMember || heatOf(entry) >= FORGOTTEN_BELOW);
  if (kept.length > MAX_HISTOGRAM_UNITS)
    kept = kept
      .sort((a, b) => Number(b.isMember) - Number(a.isMember) || heatOf(b) - heatOf(a))
      .slice(0, MAX_HISTOGRAM_UNITS);
  return new AdaptiveHistogram(kept.sort((a, b) => a.leader - b.leader));
}

function requireAlpha(alpha: number): void {
  if (!(alpha > 0 && alpha <= 1)) throw new RangeError(`alpha is ${alpha}, expected above 0 and at most 1`);
}
