import { describe, expect, it } from 'vitest';
import { PAGE_KINDS, type PageKind } from '../../../src/pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { TOUCH_CLASSES, evidenceOf, touchClassOf } from '../../../src/working-set/evidence.js';
import { countPages, pagesOf, runsOf } from '../../../src/working-set/runs.js';
import { TraceRecorder, type TraceContext } from '../../../src/working-set/trace.js';
import { installUnits } from '../../../src/working-set/units.js';
import { RAM_PAGES, alignedUnits } from '../../support/fault-traces.js';

const context: TraceContext = {
  resumedAtMs: 1,
  runId: 2n,
  generation: 3,
  pageCount: RAM_PAGES,
  prefetched: runsOf([]),
  withheld: runsOf([]),
  explorePhase: 0,
  isComplete: true,
  isExact: false,
};

describe('TraceRecorder', () => {
  it('keeps each page once, with its first fault, in address order', () => {
    const recorder = new TraceRecorder();
    for (const [page, us] of [
      [9, 10.7],
      [4, 20],
      [9, 30],
      [0, 40],
      [0xffff_fffe, 2 ** 40],
    ] as const)
      recorder.fault(page, us);
    const { faultPages, faultTimesUs, cutFaultCount } = recorder.finish(context);
    expect([...faultPages]).toEqual([0, 4, 9, 0xffff_fffe]);
    expect([...faultTimesUs]).toEqual([40, 20, 10, 0xffff_ffff]);
    expect(cutFaultCount).toBe(0);
  });

  it('grows, and counts what is beyond its bound', () => {
    const recorder = new TraceRecorder(3000);
    for (let page = 5000; page > 0; page--) recorder.fault(page, 5000 - page);
    const { faultPages, faultTimesUs, cutFaultCount } = recorder.finish(context);
    expect(faultPages.length).toBe(3000);
    expect([faultPages[0], faultPages[2999]]).toEqual([2001, 5000]);
    expect([faultTimesUs[0], faultTimesUs[2999]]).toEqual([2999, 0]);
    expect(cutFaultCount).toBe(2000);
  });
});

describe('evidenceOf', () => {
  const recorder = new TraceRecorder();
  for (const [page, us] of [
    [9, 99_999],
    [20, 100_000],
    [10, 2_000_000],
    [33, 1_000_000],
  ] as const)
    recorder.fault(page, us);
  const trace = recorder.finish({ ...context, withheld: runsOf([32, 33, 40, 41]), prefetched: runsOf([80]) });

  it('is of units: those that faulted with the first time, those withheld in vain', () => {
    const { touched, untouched } = evidenceOf(trace, alignedUnits);
    const { early, soon, late } = TOUCH_CLASSES;
    expect([...touched]).toEqual([
      [8, early],
      [16, soon],
      [32, late],
    ]);
    expect([...untouched]).toEqual([40]);
  });

  it('has no absences when the trace is cut or the restore did not end', () => {
    for (const part of [{ cutFaultCount: 1 }, { isComplete: false }]) {
      const evidence = evidenceOf({ ...trace, ...part }, alignedUnits);
      expect(evidence).toMatchObject({ tellsAbsence: false, untouched: new Set() });
      expect(evidence.touched.size).toBe(3);
    }
  });

  it('tells the first 100 ms and the first second apart', () => {
    expect([0, 99_999, 100_000, 999_999, 1_000_000].map(touchClassOf)).toEqual([0, 0, 1, 1, 2]);
  });
});

describe('installUnits', () => {
  /** Pages as a string: a letter is the extent of a data page, "." a zero page. Two RAM blocks of half of it. */
  function unitsOf(text: string) {
    const half = (text.length / 2) * PAGE_BYTES;
    return installUnits({
      layout: new RamLayout([
        { name: 'pc.ram', usedBytes: half },
        { name: 'vga.vram', usedBytes: half },
      ]),
      kindOf: (page): PageKind => (text[page] === '.' ? PAGE_KINDS.zero : PAGE_KINDS.data),
      extentOf: (page) => text.charCodeAt(page),
    });
  }

  it('holds the pages of an extent together, over zero pages between them', () => {
    const units = unitsOf('.aa.ab..bb');
    expect(units.pageCount).toBe(10);
    for (const page of [1, 2, 4]) {
      expect(units.leaderOf(page)).toBe(1);
      expect(units.membersOf(page)).toEqual([1, 2, 4]);
    }
    expect(units.membersOf(9)).toEqual([5, 8, 9]);
  });

  it('makes a unit of a page without an extent', () => {
    const units = unitsOf('.aa.ab..bb');
    expect([units.leaderOf(3), units.membersOf(3)]).toEqual([3, [3]]);
  });

  it('ends a unit at another extent, at the end of a RAM block, and behind a long gap', () => {
    expect(unitsOf('aabaab').membersOf(0)).toEqual([0, 1]);
    expect(unitsOf('..aaaa..').membersOf(3)).toEqual([2, 3]);
    const gap = (length: number) => `a${'.'.repeat(length)}a${'.'.repeat(98 + length)}`;
    expect(unitsOf(gap(62)).membersOf(0)).toEqual([0, 63]);
    expect(unitsOf(gap(63)).membersOf(0)).toEqual([0]);
  });
});

describe('page runs', () => {
  it('are made of pages in any order', () => {
    const runs = runsOf([7, 3, 4, 5, 9]);
    expect([...runs]).toEqual([3, 3, 7, 1, 9, 1]);
    expect([...pagesOf(runs)]).toEqual([3, 4, 5, 7, 9]);
    expect(countPages(runs)).toBe(5);
  });
});
