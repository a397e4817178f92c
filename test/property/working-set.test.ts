/**
 * Working-set files: what is encoded is decoded, and damage gives a problem or what could have been encoded, never an
 * exception. With checksums that fit (a hostile writer has them) the numbers are still within their bounds.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { xxh3 } from '../../src/native/index.js';
import {
  decodeFoundation,
  decodeTrace,
  decodeWorkingSet,
  encodeTrace,
  encodeWorkingSet,
} from '../../src/working-set/codec.js';
import { TOUCH_CLASSES, type Evidence, type TouchClass } from '../../src/working-set/evidence.js';
import { AdaptiveHistogram, FULL_HEAT, heatOf } from '../../src/working-set/histogram.js';
import { decodePlan, encodePlan } from '../../src/working-set/next-plan.js';
import { planPrefetch, prefetchedBy, type PrefetchPlan } from '../../src/working-set/plan.js';
import { pagesOf, runsOf, type PageRuns } from '../../src/working-set/runs.js';
import { SCORE_BASES, type RestoreScore, type ScoreBasis } from '../../src/working-set/score.js';
import type { RestoreTrace } from '../../src/working-set/trace.js';
import { MAX_SCORES, type WorkingSet } from '../../src/working-set/working-set.js';
import { alignedUnits } from '../support/fault-traces.js';

const PAGE_COUNT = 5000;
const HEADER_BYTES = 64;
const page = fc.nat(PAGE_COUNT - 1);
const count = fc.oneof(fc.nat(1000), fc.maxSafeNat());
const u32 = fc.nat(0xffff_ffff);
const share = fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined });

const runs: fc.Arbitrary<PageRuns> = fc.uniqueArray(page, { maxLength: 60 }).map(runsOf);

const trace: fc.Arbitrary<RestoreTrace> = fc
  .record({
    faults: fc.uniqueArray(fc.tuple(page, u32), { maxLength: 60, selector: ([at]) => at }),
    rest: fc.record({
      resumedAtMs: count,
      runId: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      generation: count,
      pageCount: fc.constant(PAGE_COUNT),
      cutFaultCount: count,
      prefetched: runs,
      withheld: runs,
      explorePhase: u32,
      isComplete: fc.boolean(),
      isExact: fc.boolean(),
    }),
  })
  .map(({ faults, rest }) => {
    const sorted = faults.sort(([a], [b]) => a - b);
    const faultPages = Uint32Array.from(sorted, ([at]) => at);
    return { ...rest, faultPages, faultTimesUs: Uint32Array.from(sorted, ([, us]) => us) };
  });

const evidence: fc.Arbitrary<Evidence> = fc.record({
  touched: fc
    .array(fc.tuple(page, fc.constantFrom<TouchClass>(...Object.values(TOUCH_CLASSES))), { maxLength: 60 })
    .map((touches) => new Map(touches)),
  untouched: fc.array(page, { maxLength: 20 }).map((leaders) => new Set(leaders)),
  tellsAbsence: fc.boolean(),
});

const histogram: fc.Arbitrary<AdaptiveHistogram> = fc
  .tuple(
    fc.array(page, { maxLength: 20 }),
    fc.array(evidence, { maxLength: 6 }),
    fc.double({ min: 0.01, max: 1, noNaN: true }),
  )
  .map(([dirty, lessons, alpha]) =>
    lessons.reduce(
      (known, lesson) => known.learn(lesson, { alpha }),
      AdaptiveHistogram.empty.feedDirty(dirty, { alpha }),
    ),
  );

const score: fc.Arbitrary<RestoreScore> = fc.record({
  resumedAtMs: count,
  prefetchedPages: count,
  withheldPages: count,
  withheldUnits: count,
  withheldFaults: count,
  missFaults: count,
  lateFaults: count,
  basis: fc.constantFrom(...(Object.keys(SCORE_BASES) as ScoreBasis[])),
  precision: share,
  recall: share,
  wastedBytes: fc.option(fc.nat(2 ** 31 - 2), { nil: undefined }),
});

const workingSet: fc.Arbitrary<WorkingSet> = fc.record({
  pageCount: fc.constant(PAGE_COUNT),
  histogram,
  touched: runs,
  exploration: fc.record({ seed: u32, phase: u32 }),
  restoreCount: count,
  scores: fc.array(score, { maxLength: MAX_SCORES }),
  lastTrace: fc.option(trace, { nil: undefined }),
});

const sample: WorkingSet = fc
  .sample(workingSet, { numRuns: 40, seed: 3 })
  .reduce((best, one) => (encodeWorkingSet(one).length > encodeWorkingSet(best).length ? one : best));

/** Gives a tampered file checksums that fit. */
function reseal(bytes: Buffer): Buffer {
  bytes.writeBigUInt64LE(BigInt(bytes.length - HEADER_BYTES), 32);
  bytes.writeBigUInt64LE(xxh3(bytes, HEADER_BYTES), 48);
  bytes.writeBigUInt64LE(xxh3(bytes, 0, 56), 56);
  return bytes;
}

function expectSane(found: WorkingSet): void {
  for (const pages of [
    found.histogram.entries.map(({ leader }) => leader),
    ...(found.lastTrace === undefined
      ? []
      : [found.lastTrace.faultPages, pagesOf(found.lastTrace.prefetched), pagesOf(found.lastTrace.withheld)]),
  ]) {
    let previous = -1;
    for (const one of pages) {
      expect(one).toBeGreaterThan(previous);
      expect(one).toBeLessThan(PAGE_COUNT);
      previous = one;
    }
  }
  for (const entry of found.histogram.entries) expect(heatOf(entry)).toBeLessThanOrEqual(FULL_HEAT);
  planPrefetch({ ...found, units: { ...alignedUnits, pageCount: PAGE_COUNT } });
}

describe('a working-set file', () => {
  it('gives back what was encoded', () => {
    fc.assert(
      fc.property(workingSet, (original) => {
        const bytes = encodeWorkingSet(original);
        expect(decodeWorkingSet(bytes, PAGE_COUNT)).toEqual({ status: 'ok', value: original });
        const { pageCount, histogram, touched, exploration, restoreCount } = original;
        const value = { pageCount, histogram, touched, exploration, restoreCount };
        expect(decodeFoundation(bytes, PAGE_COUNT)).toEqual({ status: 'ok', value });
      }),
      { numRuns: 300 },
    );
  });

  it('is damaged when it is cut, wherever', () => {
    const bytes = encodeWorkingSet(sample);
    expect(bytes.length).toBeGreaterThan(500);
    for (let length = 0; length < bytes.length; length++)
      expect(decodeWorkingSet(bytes.subarray(0, length), PAGE_COUNT).status).toBe('damaged');
  });

  it('is damaged when it is cut and has checksums that fit, wherever', () => {
    const bytes = encodeWorkingSet(sample);
    for (let length = HEADER_BYTES; length < bytes.length; length++)
      expect(decodeWorkingSet(reseal(Buffer.from(bytes.subarray(0, length))), PAGE_COUNT).status).toBe(
        'damaged',
      );
  });

  it('is damaged when any bit is flipped', () => {
    const original = encodeWorkingSet(sample);
    for (let bit = 0; bit < original.length * 8; bit++) {
      const bytes = Buffer.from(original);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      expect(decodeWorkingSet(bytes, PAGE_COUNT).status).toBe('damaged');
    }
  });

  it('has nothing but sane numbers even when a hostile writer made its checksums fit', () => {
    const original = encodeWorkingSet(sample);
    const edit = fc.record({ at: fc.nat(original.length - HEADER_BYTES - 1), byte: fc.nat(255) });
    let accepted = 0;
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
        const bytes = Buffer.from(original);
        for (const { at, byte } of edits) bytes[HEADER_BYTES + at] = byte;
        const found = decodeWorkingSet(reseal(bytes), PAGE_COUNT);
        if (found.status !== 'ok') return;
        accepted++;
        expectSane(found.value);
      }),
      { numRuns: 3000 },
    );
    expect(accepted).toBeGreaterThan(10);
  });

  it('may be any bytes at all behind a header that fits', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (body) => {
        const header = encodeWorkingSet(sample).subarray(0, HEADER_BYTES);
        const found = decodeWorkingSet(reseal(Buffer.concat([header, body])), PAGE_COUNT);
        if (found.status === 'ok') expectSane(found.value);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('a plan file', () => {
  const tie = 77n;
  const wishes = { budgetMs: 20, explore: 0.01 };
  const sequence = fc
    .array(page, { maxLength: 20 })
    .map((pages) => Uint32Array.from(pages.flatMap((at) => [at, 1])));
  const plan: fc.Arbitrary<PrefetchPlan> = fc.record({
    beforeResume: runs,
    afterResume: fc.tuple(runs, runs, runs),
    warm: sequence,
    beside: runs,
    likely: sequence,
    withheld: runs,
    restMs: fc.nat(60_000),
    explorePhase: u32,
  });
  const subject = { tie, pageCount: PAGE_COUNT, wishes };
  const sampled = fc.sample(plan, { numRuns: 1, seed: 5 })[0]!;

  it('gives back what was encoded, to whom it was made for', () => {
    fc.assert(
      fc.property(plan, (original) => {
        const bytes = encodePlan(original, tie, wishes);
        expect(decodePlan(bytes, subject)).toEqual({ status: 'ok', value: original });
        expect(decodePlan(bytes, { ...subject, tie: 78n }).status).toBe('damaged');
        expect(decodePlan(bytes, { ...subject, wishes: { ...wishes, explore: 0 } }).status).toBe('damaged');
      }),
      { numRuns: 300 },
    );
  });

  it('is damaged when it is cut, wherever, and when any bit is flipped', () => {
    const original = encodePlan(sampled, tie, wishes);
    for (let length = 0; length < original.length; length++)
      expect(decodePlan(original.subarray(0, length), subject).status).toBe('damaged');
    for (let bit = 0; bit < original.length * 8; bit++) {
      const bytes = Buffer.from(original);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      expect(decodePlan(bytes, subject).status).not.toBe('ok');
    }
  });

  it('names only pages that there are, each set in order, even when a hostile writer made its checksums fit', () => {
    const original = encodePlan(sampled, tie, wishes);
    const edit = fc.record({ at: fc.nat(original.length - HEADER_BYTES - 1), byte: fc.nat(255) });
    let accepted = 0;
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 2 }), (edits) => {
        const bytes = Buffer.from(original);
        for (const { at, byte } of edits) bytes[HEADER_BYTES + at] = byte;
        const found = decodePlan(reseal(bytes), subject);
        if (found.status !== 'ok') return;
        accepted++;
        let next = 0;
        const prefetched = prefetchedBy(found.value);
        for (let at = 0; at < prefetched.length; at += 2) {
          expect(prefetched[at]).toBeGreaterThanOrEqual(next);
          next = prefetched[at]! + prefetched[at + 1]!;
        }
        expect(next).toBeLessThanOrEqual(PAGE_COUNT);
      }),
      { numRuns: 3000 },
    );
    expect(accepted).toBeGreaterThan(10);
  });
});

describe('a trace file', () => {
  it('gives back what was encoded, and is no working set', () => {
    fc.assert(
      fc.property(trace, (original) => {
        const bytes = encodeTrace(original);
        expect(decodeTrace(bytes)).toEqual({ status: 'ok', value: original });
        expect(decodeWorkingSet(bytes, PAGE_COUNT).status).toBe('damaged');
      }),
      { numRuns: 300 },
    );
  });

  it('is damaged when it is cut, wherever', () => {
    const bytes = encodeTrace(fc.sample(trace, { numRuns: 1, seed: 4 })[0]!);
    for (let length = 0; length < bytes.length; length++) {
      expect(decodeTrace(bytes.subarray(0, length)).status).toBe('damaged');
      if (length >= HEADER_BYTES)
        expect(decodeTrace(reseal(Buffer.from(bytes.subarray(0, length)))).status).toBe('damaged');
    }
  });
});

describe('the histogram', () => {
  it('keeps heat within bounds, members above zero, and no cold units outside, whatever it is taught', () => {
    fc.assert(
      fc.property(histogram, (found) => {
        expectSane({ ...sample, histogram: found });
        for (const entry of found.entries)
          expect(heatOf(entry)).toBeGreaterThanOrEqual(entry.isMember ? 1 : FULL_HEAT / 256);
      }),
      { numRuns: 500 },
    );
  });
});
