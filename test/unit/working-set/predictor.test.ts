/** The predictor as a whole, on synthetic and on recorded runs, against what one would do without it. */
import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { planPrefetch } from '../../../src/working-set/plan.js';
import { pagesOf } from '../../../src/working-set/runs.js';
import { learnRestore, newWorkingSet, type WorkingSet } from '../../../src/working-set/working-set.js';
import {
  RAM_PAGES,
  UNIT_PAGES,
  alignedUnits,
  demandOf,
  jaccard,
  leadersIn,
  makeWorkload,
  runWorkload,
  simulateRestore,
  type Touch,
  type Workload,
} from '../../support/fault-traces.js';
import {
  RECORDED_WORKLOADS,
  recordedTraces,
  recordedUnits,
  replayWith,
  type RecordedWorkload,
} from '../../support/recorded-traces.js';

const UNIT_COUNT = 4000;
const fresh = (): WorkingSet => ({ ...newWorkingSet(RAM_PAGES), exploration: { seed: 7, phase: 0 } });

/** One restore with the prediction of all before it: what is known after it, and what had been predicted. */
function restoreOnce(known: WorkingSet, touches: readonly Touch[], explore = 0.01) {
  const plan = planPrefetch({ ...known, units: alignedUnits }, { explore });
  const trace = simulateRestore(plan, touches);
  const predicted = leadersIn([...pagesOf(trace.prefetched), ...pagesOf(trace.withheld)]);
  return { known: learnRestore(known, { trace, units: alignedUnits }), predicted };
}

interface Quality {
  readonly setUnits: number;
  readonly precision: number;
  readonly recall: number;
  readonly wastedBytes: number;
}

function qualityOf(
  predicted: ReadonlySet<number>,
  demand: ReadonlySet<number>,
  pagesIn: (leader: number) => number = () => UNIT_PAGES,
): Quality {
  const wasted = [...predicted].filter((leader) => !demand.has(leader));
  const hits = predicted.size - wasted.length;
  return {
    setUnits: predicted.size,
    precision: hits / predicted.size,
    recall: hits / demand.size,
    wastedBytes: wasted.reduce((pages, leader) => pages + pagesIn(leader), 0) * PAGE_BYTES,
  };
}

function runs(workload: Workload, count: number, firstSeed = 1000): Touch[][] {
  return Array.from({ length: count }, (_, i) => runWorkload(workload, firstSeed + i));
}

/** The quality of each restore, from the second on, when the same workload runs again and again. */
function repeat(all: readonly (readonly Touch[])[], explore = 0.01): Quality[] {
  let known = fresh();
  return all.flatMap((touches, i) => {
    const step = restoreOnce(known, touches, explore);
    known = step.known;
    return i === 0 ? [] : [qualityOf(step.predicted, demandOf(touches))];
  });
}

function averageOf(rows: readonly Quality[], key: keyof Quality): number {
  return mean(rows.map((row) => row[key]));
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** For whoever changes the predictor: VMCKPT_SHOW_PREDICTOR=1 prints what the tests compare. */
function show(title: string, rows: readonly Quality[]): void {
  if (process.env['VMCKPT_SHOW_PREDICTOR'] === undefined) return;
  console.log(title);
  console.table(
    rows.map((row) => ({ ...row, wastedBytes: `${(row.wastedBytes / 2 ** 20).toFixed(2)} MiB` })),
  );
}

describe('the synthetic runs', () => {
  it('repeat their set with a Jaccard index of about 0.93, but not their order', () => {
    const [a, b] = runs(makeWorkload(1, UNIT_COUNT), 2) as [Touch[], Touch[]];
    expect(jaccard(demandOf(a), demandOf(b))).toBeGreaterThan(0.91);
    expect(jaccard(demandOf(a), demandOf(b))).toBeLessThan(0.95);
    const [orderA, orderB] = [a, b].map((touches) => [...leadersIn(touches.map(({ page }) => page))]);
    const followers = new Map(orderA!.map((leader, i) => [leader, orderA![i + 1]]));
    const repeated = orderB!.filter((leader, i) => followers.get(leader) === orderB![i + 1]);
    expect(repeated.length).toBeLessThan(orderB!.length / 10);
  });
});

describe('the predictor', () => {
  const workload = makeWorkload(1, UNIT_COUNT);

  it('does not oscillate when the same workload repeats ten times', () => {
    const settled = repeat(runs(workload, 11));
    show('ten repeats', settled);
    const sizes = settled.map(({ setUnits }) => setUnits);
    expect(Math.max(...sizes) / Math.min(...sizes)).toBeLessThan(1.05);
    for (const { precision, recall } of settled) {
      expect(precision).toBeGreaterThan(0.93);
      expect(recall).toBeGreaterThan(0.93);
    }
    for (const [i, size] of sizes.entries())
      if (i > 0) expect(Math.abs(size - sizes[i - 1]!) / size).toBeLessThan(0.03);
  });

  it(
    'holds its quality over three hundred restores, with and without exploration',
    { timeout: 300_000 },
    () => {
      const all = runs(makeWorkload(2, 500), 300);
      for (const explore of [0, 0.01, 0.1]) {
        const settled = repeat(all, explore);
        show(
          `three hundred repeats, explore ${explore}`,
          settled.filter((_, i) => i % 30 === 29),
        );
        for (const { precision, recall } of settled) {
          expect(precision).toBeGreaterThan(0.87);
          expect(recall).toBeGreaterThan(0.9);
        }
      }
    },
  );

  it('is better than nothing, than the last run, and than the union of runs', () => {
    const all = runs(workload, 20);
    const demands = all.map(demandOf);
    const ours = repeat(all).slice(5);
    // The baselines are told every unit that a run demanded; a real one would lose what its prefetch hides.
    const last = demands.slice(6).map((demand, i) => qualityOf(demands[i + 5]!, demand));
    const union = demands
      .slice(6)
      .map((demand, i) => qualityOf(new Set(demands.slice(0, i + 6).flatMap((one) => [...one])), demand));
    const none = demands.slice(6).map((demand) => qualityOf(new Set(), demand));
    show('ours', ours);
    show('the last run', last);
    show('the union', union);
    expect(averageOf(none, 'recall')).toBe(0);
    expect(averageOf(ours, 'recall')).toBeGreaterThan(averageOf(last, 'recall'));
    expect(averageOf(ours, 'precision')).toBeGreaterThan(averageOf(last, 'precision') - 0.01);
    expect(averageOf(ours, 'recall')).toBeGreaterThan(averageOf(union, 'recall') - 0.03);
    expect(averageOf(ours, 'wastedBytes')).toBeLessThan(averageOf(union, 'wastedBytes') / 2);
  });

  it('does not swing as replaying the last record does, which lacks what its prefetch hid', () => {
    const all = runs(workload, 6);
    let recorded = new Set<number>();
    const replayed = all.map((touches) => {
      const demand = demandOf(touches);
      const quality = qualityOf(recorded, demand);
      recorded = new Set([...demand].filter((leader) => !recorded.has(leader)));
      return quality.recall;
    });
    expect(replayed[1]).toBeGreaterThan(0.9);
    expect(replayed[2]).toBeLessThan(0.1);
    expect(Math.min(...repeat(all).map(({ recall }) => recall))).toBeGreaterThan(0.9);
  });

  it('learns another workload within two restores, or five when the set is old', () => {
    for (const [restoresBefore, restoresToLearn] of [
      [3, 2],
      [150, 5],
    ] as const) {
      const [before, after] = [makeWorkload(3, 500), makeWorkload(4, 500)];
      let known = fresh();
      for (const touches of runs(before, restoresBefore)) known = restoreOnce(known, touches, 0.1).known;
      for (const touches of runs(after, restoresToLearn, 5000))
        known = restoreOnce(known, touches, 0.1).known;
      const [touches] = runs(after, 1, 9000);
      const quality = qualityOf(restoreOnce(known, touches!, 0.1).predicted, demandOf(touches!));
      expect(quality.recall).toBeGreaterThan(0.9);
    }
  });

  it('drops units out of use within two turns of exploration', () => {
    const [before, after] = [makeWorkload(3, 500), makeWorkload(4, 500)];
    const explore = 0.1;
    let known = fresh();
    for (const touches of runs(before, 40)) known = restoreOnce(known, touches, explore).known;
    const kept = new Set(after.map(({ leader }) => leader));
    const stale = before.map(({ leader }) => leader).filter((leader) => !kept.has(leader));
    const staleMembers = (): number => {
      const members = new Set(
        known.histogram.entries.filter(({ isMember }) => isMember).map(({ leader }) => leader),
      );
      return stale.filter((leader) => members.has(leader)).length;
    };
    const atFirst = staleMembers();
    const left: number[] = [];
    for (const touches of runs(after, 2 / explore, 5000)) {
      known = restoreOnce(known, touches, explore).known;
      left.push(staleMembers());
    }
    show(`stale units of ${atFirst}: ${left.join(' ')}`, []);
    expect(atFirst).toBeGreaterThan(400);
    expect(left[1 / explore - 1]).toBeLessThan(atFirst / 10);
    expect(left.at(-1)).toBeLessThanOrEqual(atFirst / 100);
  });
});

describe('the predictor, on recorded restores of a real guest', () => {
  const units = recordedUnits();
  const leaders = (pages: Iterable<number>) => new Set(Array.from(pages, (page) => units.leaderOf(page)));
  const quality = (predicted: ReadonlySet<number>, demand: ReadonlySet<number>): Quality =>
    qualityOf(predicted, demand, (leader) => units.membersOf(leader).length);
  const kept = (before: ReadonlySet<number>, after: ReadonlySet<number>): number =>
    [...before].filter((leader) => after.has(leader)).length / before.size;

  /** What is predicted for each restore from the second on, and what it demanded, as sets of units. */
  function predictions(workload: RecordedWorkload) {
    const traces = recordedTraces(workload);
    const demands = traces.map(({ faultPages }) => leaders(faultPages));
    let known: WorkingSet = { ...newWorkingSet(units.pageCount), exploration: { seed: 7, phase: 0 } };
    const ours = traces.map((lazy) => {
      const trace = replayWith(planPrefetch({ ...known, units }), lazy, units);
      known = learnRestore(known, { trace, units });
      return leaders([...pagesOf(trace.prefetched), ...pagesOf(trace.withheld)]);
    });
    const union = demands.map((_, i) => new Set(demands.slice(0, i).flatMap((demand) => [...demand])));
    return {
      demands: demands.slice(1),
      ours: ours.slice(1),
      last: demands.slice(0, -1),
      union: union.slice(1),
    };
  }

  function averagesOf(workload: RecordedWorkload) {
    const { demands, ...sets } = predictions(workload);
    const rate = (predicted: readonly ReadonlySet<number>[]) =>
      averages(predicted.map((set, i) => quality(set, demands[i]!)));
    const [ours, last, union] = [rate(sets.ours), rate(sets.last), rate(sets.union)];
    show(`${workload}, on average: the last run, the union, ours`, [last, union, ours]);
    return { ours, last, union };
  }

  it.each(RECORDED_WORKLOADS)(
    'misses little of %s, and wastes no more than the union of runs',
    (workload) => {
      const { ours, last, union } = averagesOf(workload);
      expect(ours.recall).toBeGreaterThan(0.8);
      expect(ours.precision).toBeGreaterThan(0.75);
      expect(ours.recall).toBeGreaterThan(last.recall - 0.02);
      expect(ours.recall).toBeGreaterThan(union.recall - 0.1);
      expect(ours.wastedBytes).toBeLessThanOrEqual(union.wastedBytes);
    },
  );

  it('misses less than the last run would, and wastes three quarters of what the union would, over all', () => {
    const all = RECORDED_WORKLOADS.map(averagesOf);
    const over = (who: 'ours' | 'last' | 'union', key: keyof Quality) =>
      averageOf(
        all.map((rows) => rows[who]),
        key,
      );
    expect(over('ours', 'recall')).toBeGreaterThan(over('last', 'recall') + 0.02);
    expect(over('ours', 'recall')).toBeGreaterThan(over('union', 'recall') - 0.06);
    expect(over('ours', 'wastedBytes')).toBeLessThan(over('union', 'wastedBytes') * 0.75);
  });

  it.each(RECORDED_WORKLOADS)('does not oscillate over ten restores of %s', (workload) => {
    const { ours } = predictions(workload);
    const gone = new Set<number>();
    for (const [i, set] of ours.slice(1).entries()) {
      expect(kept(ours[i]!, set)).toBeGreaterThan(0.98);
      for (const leader of ours[i]!) if (!set.has(leader)) gone.add(leader);
    }
    const back = [...gone].filter((leader) => ours.at(-1)!.has(leader)).length;
    expect(back / ours.at(-1)!.size).toBeLessThan(0.03);
  });
});

function averages(rows: readonly Quality[]): Quality {
  const of = (key: keyof Quality) => averageOf(rows, key);
  return {
    setUnits: of('setUnits'),
    precision: of('precision'),
    recall: of('recall'),
    wastedBytes: of('wastedBytes'),
  };
}
