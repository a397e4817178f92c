import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { AdaptiveHistogram, FULL_HEAT, type HeatEntry } from '../../../src/working-set/histogram.js';
import { planPrefetch, prefetchedBy, type PlanOptions } from '../../../src/working-set/plan.js';
import { countPages, pagesOf, runsOf } from '../../../src/working-set/runs.js';
import { RAM_PAGES, UNIT_PAGES, alignedUnits } from '../../support/fault-traces.js';

const PAGE_PER_MS: PlanOptions = { fillBytesPerMs: PAGE_BYTES, explore: 0 };

function entry(unit: number, share: number, { bin = 0, isMember = true } = {}): HeatEntry {
  const bins: [number, number, number] = [0, 0, 0];
  bins[bin] = share * FULL_HEAT;
  return { leader: unit * UNIT_PAGES, bins, isMember };
}

function plan(
  entries: readonly HeatEntry[],
  options: PlanOptions = {},
  {
    phase = 0,
    touched = [],
    restoreCount = 1,
  }: { phase?: number; touched?: readonly number[]; restoreCount?: number } = {},
) {
  const histogram = new AdaptiveHistogram(entries);
  const exploration = { seed: 5, phase };
  const known = { histogram, exploration, touched: runsOf(touched), restoreCount };
  return planPrefetch({ ...known, units: alignedUnits }, options);
}

describe('planPrefetch', () => {
  it('puts the hottest early units before the resume, whole and within the budget', () => {
    const entries = [entry(1, 0.5), entry(3, 0.9), entry(5, 0.8), entry(7, 0.7)];
    const { beforeResume, afterResume } = plan(entries, { ...PAGE_PER_MS, budgetMs: 20 });
    expect([...beforeResume]).toEqual([24, 8, 40, 8]);
    expect(afterResume.map((runs) => [...runs])).toEqual([[8, 8, 56, 8], [], []]);
  });

  it('predicts only the pages of a unit that are known to be touched, and what lies beside them comes next', () => {
    const touched = [9, 10, 30, 100];
    const found = plan(
      [entry(1, 0.5), entry(3, 0.9), entry(5, 0.8)],
      { ...PAGE_PER_MS, budgetMs: 1 },
      { touched },
    );
    expect([...found.beforeResume]).toEqual([30, 1]);
    // Of the unit of 40 nothing is known.
    expect([...found.afterResume[0]!]).toEqual([9, 2, 40, 8]);
    expect([...found.beside]).toEqual([8, 1, 11, 5, 24, 6, 31, 1]);
  });

  it('withholds all pages of a unit, touched or not', () => {
    const found = plan([entry(1, 0.5)], { explore: 0.5 }, { touched: [9] });
    const other = plan([entry(1, 0.5)], { explore: 0.5 }, { phase: 1, touched: [9] });
    expect([found.withheld, other.withheld].map(countPages).sort()).toEqual([0, 8]);
  });

  it('works off early, soon and late units one after the other, each in address order', () => {
    const entries = [entry(1, 0.9, { bin: 2 }), entry(2, 0.5, { bin: 1 }), entry(3, 0.5), entry(4, 0.9)];
    const { beforeResume, afterResume } = plan(entries, { ...PAGE_PER_MS, budgetMs: 0 });
    expect([...beforeResume]).toEqual([]);
    expect(afterResume.map((runs) => [...runs])).toEqual([
      [24, 16],
      [16, 8],
      [8, 8],
    ]);
  });

  it('only warms units outside the set, the hottest first', () => {
    const outside = { isMember: false };
    const found = plan([entry(1, 0.1, outside), entry(5, 0.4, outside), entry(9, 0.6)]);
    expect([...found.warm]).toEqual([40, 8, 8, 8]);
    expect([...prefetchedBy(found)]).toEqual([72, 8]);
  });

  it('goes on with what lies around hot units, the hottest region first', () => {
    const { likely } = plan([entry(200, 0.5), entry(640, 0.4), entry(641, 0.4)]);
    expect([...likely]).toEqual([5120, 512, 1536, 512]);
    expect([...plan([]).likely]).toEqual([]);
  });

  it('gives every unit its turn to be withheld within 1/explore restores, a random share each time', () => {
    const entries = Array.from({ length: 5000 }, (_, unit) => entry(unit, 0.5));
    const turns = new Map<number, number>();
    for (let phase = 30; phase < 130; phase++) {
      const found = plan(entries, { explore: 0.01 }, { phase });
      const withheld = [...pagesOf(found.withheld)];
      expect(found.explorePhase).toBe(phase);
      expect(withheld.length / UNIT_PAGES).toBeGreaterThan(20);
      expect(withheld.length / UNIT_PAGES).toBeLessThan(90);
      const prefetched = new Set(pagesOf(prefetchedBy(found)));
      for (const page of withheld) {
        expect(prefetched.has(page)).toBe(false);
        turns.set(page, (turns.get(page) ?? 0) + 1);
      }
    }
    expect(turns.size).toBe(5000 * UNIT_PAGES);
    expect(new Set(turns.values())).toEqual(new Set([1]));
  });

  it('lets the rest wait only when it is known from restores what is touched', () => {
    expect(plan([entry(1, 0.5)]).restMs).toBeGreaterThan(100);
    expect(plan([entry(1, 0.5)], {}, { restoreCount: 0 }).restMs).toBe(0);
  });

  it('takes pages once, and ignores units beyond the RAM', () => {
    const twice = { ...entry(1, 0.9), leader: UNIT_PAGES + 3 };
    const beyond = { ...entry(1, 0.9), leader: RAM_PAGES };
    expect([...prefetchedBy(plan([entry(1, 0.5), twice, beyond], { explore: 0 }))]).toEqual([8, 8]);
  });

  it('refuses options out of range', () => {
    expect(() => plan([], { explore: 0.6 })).toThrow('explore is 0.6, expected 0 to 0.5');
    expect(() => plan([], { budgetMs: -1 })).toThrow(RangeError);
    expect(() => plan([], { fillBytesPerMs: Number.NaN })).toThrow(RangeError);
  });
});
