import { describe, expect, it } from 'vitest';
import { PageBitmap } from '../../../src/pages/bitmap.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { runsOf } from '../../../src/working-set/runs.js';
import { scoreRestore } from '../../../src/working-set/score.js';
import type { RestoreTrace } from '../../../src/working-set/trace.js';
import { RAM_PAGES, alignedUnits, simulateRestore, NO_PLAN } from '../../support/fault-traces.js';

function unitsOf(...units: number[]): number[] {
  return units.flatMap((unit) => alignedUnits.membersOf(unit * 8));
}

interface Parts {
  readonly prefetched?: number[];
  readonly withheld?: number[];
  readonly faults?: number[];
}

function trace({ prefetched = [], withheld = [], faults = [] }: Parts): RestoreTrace {
  const faultPages = Uint32Array.from(faults);
  return {
    ...simulateRestore(NO_PLAN, []),
    prefetched: runsOf(prefetched),
    withheld: runsOf(withheld),
    faultPages,
    faultTimesUs: faultPages.map(() => 5),
  };
}

describe('scoreRestore', () => {
  const prefetched = unitsOf(1, 2, 3, 4, 5, 6, 7, 8, 9, 10);
  const seen = trace({
    prefetched,
    withheld: unitsOf(20, 21, 22, 23),
    faults: [24, 160, 170, 183, 400, 408],
  });

  it('estimates from the withheld units, and keeps their faults apart from misses', () => {
    const score = scoreRestore(seen, alignedUnits);
    expect(score).toMatchObject({ prefetchedPages: 80, withheldPages: 32, withheldUnits: 4 });
    expect(score).toMatchObject({ withheldFaults: 3, missFaults: 2, lateFaults: 1 });
    expect(score).toMatchObject({ basis: 'withheld', precision: 0.75, recall: 7.5 / 9.5 });
    expect(score.wastedBytes).toBe(20 * PAGE_BYTES);
  });

  it('counts pages when the touched ones are known', () => {
    const touched = new PageBitmap(RAM_PAGES);
    for (const page of [8, 9, 16, 24, 160, 170, 183, 400, 408]) touched.claim(page);
    expect(scoreRestore(seen, alignedUnits, touched)).toMatchObject({
      basis: 'touched',
      precision: 4 / 80,
      recall: 4 / 6,
      wastedBytes: 76 * PAGE_BYTES,
      missFaults: 2,
    });
  });

  it('says that it does not know when nothing was withheld or the trace is cut', () => {
    const unknown = { basis: 'none', precision: undefined, recall: undefined, wastedBytes: undefined };
    expect(scoreRestore({ ...seen, withheld: runsOf([]) }, alignedUnits)).toMatchObject(unknown);
    expect(scoreRestore({ ...seen, cutFaultCount: 1 }, alignedUnits)).toMatchObject(unknown);
    expect(scoreRestore({ ...seen, isComplete: false }, alignedUnits)).toMatchObject(unknown);
  });

  it('finds neither hits nor waste when nothing was prefetched', () => {
    expect(scoreRestore(trace({ faults: [1] }), alignedUnits)).toMatchObject({ recall: 0, wastedBytes: 0 });
    expect(scoreRestore(trace({}), alignedUnits)).toMatchObject({ recall: undefined, wastedBytes: 0 });
  });
});
