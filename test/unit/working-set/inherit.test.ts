import { describe, expect, it } from 'vitest';
import { AdaptiveHistogram } from '../../../src/working-set/histogram.js';
import { inheritWorkingSet } from '../../../src/working-set/inherit.js';
import type { InstallUnits } from '../../../src/working-set/units.js';
import { newWorkingSet, type WorkingSet } from '../../../src/working-set/working-set.js';

const PAGE_COUNT = 400;

/** Units of `size` pages, the first of them cut short by `shift`. */
function cutAt(shift: number, size = 8): InstallUnits {
  const leaderOf = (page: number) => Math.max(0, page - ((page + shift) % size));
  return {
    pageCount: PAGE_COUNT,
    holdsData: () => true,
    leaderOf,
    membersOf: (page) => {
      const all = Array.from({ length: PAGE_COUNT }, (_, other) => other);
      return all.filter((other) => leaderOf(other) === leaderOf(page));
    },
  };
}

function workingSet(members: readonly number[], outside: readonly number[] = []): WorkingSet {
  const entry = (isMember: boolean) => (leader: number) => ({
    leader,
    bins: [100, 20, 4] as const,
    isMember,
  });
  const entries = [...members.map(entry(true)), ...outside.map(entry(false))];
  return { ...newWorkingSet(PAGE_COUNT), histogram: new AdaptiveHistogram(entries), restoreCount: 7 };
}

const leaders = ({ histogram }: WorkingSet) => histogram.entries.map(({ leader }) => leader);

describe('the working set of the generation before', () => {
  const units = cutAt(0);

  it('is inherited with its heat and what is known of its pages, but not with single restores', () => {
    const touched = Uint32Array.of(17, 2);
    const former = { ...workingSet([16, 80], [160]), touched };
    const heir = inheritWorkingSet({ workingSet: former, units }, units);
    expect(heir.histogram.entries).toEqual(former.histogram.entries);
    expect(heir).toMatchObject({ restoreCount: 7, touched, scores: [], lastTrace: undefined });
  });

  it('leaves out what is outside the set and cut differently', () => {
    const former = workingSet([16, 80], [160]);
    const heir = inheritWorkingSet({ workingSet: former, units }, cutAt(6));
    expect(heir.histogram.entries.map(({ isMember }) => isMember)).toEqual([true, true]);
  });

  it('follows its pages into units that are cut differently, those first that it fills best', () => {
    const former = { workingSet: workingSet([16, 24, 32]), units };
    expect(leaders(inheritWorkingSet(former, cutAt(6)))).toEqual([18, 26, 34]);
    expect(leaders(inheritWorkingSet(former, cutAt(2)))).toEqual([14, 22, 30]);
  });

  it('does not grow, however often it is handed on', () => {
    const pagesOf = (set: WorkingSet, cut: InstallUnits) =>
      leaders(set).reduce((sum, leader) => sum + cut.membersOf(leader).length, 0);
    let former = { workingSet: workingSet([16, 24, 80, 200, 208, 216]), units };
    for (let generation = 0; generation < 30; generation++) {
      const next = cutAt((generation * 3) % 8);
      former = { workingSet: inheritWorkingSet(former, next), units: next };
      expect(pagesOf(former.workingSet, next)).toBeLessThanOrEqual(48);
    }
    expect(former.workingSet.histogram.memberCount).toBeGreaterThan(0);
  });
});
