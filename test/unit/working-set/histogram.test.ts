import { describe, expect, it } from 'vitest';
import { TOUCH_CLASSES, type Evidence, type TouchClass } from '../../../src/working-set/evidence.js';
import {
  AdaptiveHistogram,
  FULL_HEAT,
  heatOf,
  usualTouch,
  type HeatEntry,
} from '../../../src/working-set/histogram.js';

interface Seen {
  readonly faulted?: readonly number[];
  readonly withheldInVain?: readonly number[];
  readonly touch?: TouchClass;
  readonly tellsAbsence?: boolean;
}

function evidence({ faulted = [], withheldInVain = [], touch = 0, tellsAbsence = true }: Seen): Evidence {
  return {
    touched: new Map(faulted.map((leader) => [leader, touch])),
    untouched: new Set(withheldInVain),
    tellsAbsence,
  };
}

function learned(...seen: Seen[]): AdaptiveHistogram {
  return seen.reduce((histogram, one) => histogram.learn(evidence(one)), AdaptiveHistogram.empty);
}

function entryOf(histogram: AdaptiveHistogram, leader: number): HeatEntry | undefined {
  return histogram.entries.find((entry) => entry.leader === leader);
}

function heat(histogram: AdaptiveHistogram, leader: number): number {
  const entry = entryOf(histogram, leader);
  return entry === undefined ? 0 : heatOf(entry) / FULL_HEAT;
}

function members(histogram: AdaptiveHistogram): number[] {
  return histogram.entries.filter(({ isMember }) => isMember).map(({ leader }) => leader);
}

describe('AdaptiveHistogram', () => {
  it('has everything that the first restore faulted in its set', () => {
    const histogram = learned({ faulted: [30, 10, 20] });
    expect(members(histogram)).toEqual([10, 20, 30]);
    expect(heat(histogram, 10)).toBe(0.5);
  });

  it('weighs a touch with alpha', () => {
    expect(heat(learned({ faulted: [1] }, { faulted: [1] }, { faulted: [1] }), 1)).toBe(0.875);
    const slow = AdaptiveHistogram.empty.learn(evidence({ faulted: [1] }), { alpha: 0.25 });
    expect(heat(slow, 1)).toBe(0.25);
    for (const alpha of [0, -1, 1.1, Number.NaN])
      expect(() => slow.learn(evidence({}), { alpha })).toThrow(/above 0 and at most 1/);
  });

  it('leaves a prefetched unit without evidence alone, however often others are touched', () => {
    const histogram = learned({ faulted: [1, 2, 3] }, ...Array<Seen>(20).fill({ faulted: [1] }));
    expect(heat(histogram, 1)).toBeGreaterThan(0.99);
    expect(heat(histogram, 2)).toBe(0.5);
    expect(members(histogram)).toEqual([1, 2, 3]);
  });

  it('keeps a set of equal heat as it is: one more touched unit stays outside', () => {
    const histogram = learned({ faulted: [1, 2, 3] }, { faulted: [9] });
    expect(heat(histogram, 9)).toBe(0.5);
    expect(members(histogram)).toEqual([1, 2, 3]);
  });

  it('takes a unit in when its heat is above the mean of the set', () => {
    expect(members(learned({ faulted: [1, 2] }, { faulted: [9] }, { faulted: [9] }))).toEqual([1, 2, 9]);
  });

  it('takes a unit in after four touches in a row, however hot the set is', () => {
    const hot = learned(...Array<Seen>(40).fill({ faulted: [1] }));
    const after = (count: number) =>
      Array<Seen>(count)
        .fill({ faulted: [9] })
        .reduce((histogram, seen) => histogram.learn(evidence(seen)), hot);
    expect(members(after(3))).toEqual([1]);
    expect(members(after(4))).toEqual([1, 9]);
  });

  it('lets go of a withheld unit that did not fault and is below the mean', () => {
    const histogram = learned({ faulted: [1, 2, 3] }, { withheldInVain: [2] });
    expect(heat(histogram, 2)).toBe(0.25);
    expect(members(histogram)).toEqual([1, 3]);
  });

  it('lets go of the hottest unit after two such turns', () => {
    const hot = learned({ faulted: [1, 2] }, ...Array<Seen>(30).fill({ faulted: [2] }));
    const once = hot.learn(evidence({ withheldInVain: [2] }));
    expect(members(once.learn(evidence({ withheldInVain: [2] })))).toEqual([1]);
  });

  it('forgets one-off units outside the set after 36 restores, and none of the set', () => {
    const oneOff = learned({ faulted: [1, 2] }, { faulted: [9] });
    const after = (count: number) =>
      Array<Seen>(count)
        .fill({})
        .reduce((histogram, seen) => histogram.learn(evidence(seen)), oneOff);
    expect(heat(after(30), 9)).toBeGreaterThan(0);
    expect(after(37).entries.map(({ leader }) => leader)).toEqual([1, 2]);
    expect(heat(after(37), 1)).toBe(0.5);
  });

  it('learns nothing from absence when the trace cannot tell it', () => {
    const histogram = learned({ faulted: [1, 2] }, { faulted: [9] });
    expect(histogram.learn(evidence({ tellsAbsence: false })).entries).toEqual(histogram.entries);
  });

  it('tells by the time of its touches whether a unit is usually early', () => {
    const { early, soon, late } = TOUCH_CLASSES;
    const timed = (...touches: TouchClass[]): TouchClass =>
      usualTouch(entryOf(learned(...touches.map((touch) => ({ faulted: [1], touch }))), 1)!);
    expect(timed(early, early, late, early)).toBe(early);
    expect(timed(early, early, late, late)).toBe(late);
    expect(timed(soon)).toBe(soon);
    expect(heat(learned({ faulted: [1], touch: late }, { faulted: [1], touch: early }), 1)).toBe(0.75);
  });

  it('starts with what the guest wrote to during its save, until restores know better', () => {
    const dirty = AdaptiveHistogram.empty.feedDirty([7, 8, 7]);
    expect(members(dirty)).toEqual([7, 8]);
    expect(heat(dirty, 7)).toBe(0.125);
    const restored = dirty.learn(evidence({ faulted: [1], withheldInVain: [7] }));
    expect(members(restored)).toEqual([1, 8]);
    expect(members(learned({ faulted: [1] }).feedDirty([1, 7]))).toEqual([1]);
  });
});
