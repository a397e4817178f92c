import { describe, expect, it } from 'vitest';
import { pagesOf, runsOf } from '../../../src/working-set/runs.js';
import { TraceRecorder, type RestoreTrace } from '../../../src/working-set/trace.js';
import { learnRestore, newWorkingSet, type WorkingSet } from '../../../src/working-set/working-set.js';
import { RAM_PAGES, UNIT_PAGES, alignedUnits } from '../../support/fault-traces.js';

function trace(pages: readonly number[], about: Partial<RestoreTrace> = {}): RestoreTrace {
  const recorder = new TraceRecorder();
  for (const page of pages) recorder.fault(page, 500_000);
  const nothing = runsOf([]);
  const context = { resumedAtMs: 1, runId: 1n, generation: 1, pageCount: RAM_PAGES, explorePhase: 0 };
  const seen = { prefetched: nothing, withheld: nothing, isComplete: true, isExact: false };
  return { ...recorder.finish({ ...context, ...seen }), ...about };
}

function learn(known: WorkingSet, ...traces: RestoreTrace[]): WorkingSet {
  return traces.reduce((before, one) => learnRestore(before, { trace: one, units: alignedUnits }), known);
}

const leaders = ({ histogram }: WorkingSet) => histogram.entries.map(({ leader }) => leader);

describe('a restore page by page', () => {
  const before = learn(newWorkingSet(RAM_PAGES), trace([8, 80]));

  it('tells which pages are touched, and of units that are known nothing else', () => {
    const after = learn(before, trace([8, 9, 12, 81], { isExact: true }));
    expect([...pagesOf(after.touched)]).toEqual([8, 9, 12, 81]);
    expect(after.histogram.entries).toEqual(before.histogram.entries);
  });

  it('adds units that were not known', () => {
    const after = learn(before, trace([8, 400, 401], { isExact: true }));
    expect(leaders(after)).toEqual([8, 80, 400]);
  });

  it('is added to by what others ask for, and replaced by the next one', () => {
    const known = learn(before, trace([8, 9], { isExact: true }), trace([12]));
    expect([...pagesOf(known.touched)]).toEqual([8, 9, 12]);
    expect([...pagesOf(learn(known, trace([80], { isExact: true })).touched)]).toEqual([80]);
  });

  it('must have been: what others ask for by itself tells nothing of the pages around', () => {
    expect(learn(before, trace([UNIT_PAGES])).touched).toHaveLength(0);
  });
});
