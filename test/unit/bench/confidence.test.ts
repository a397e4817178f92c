import fc from 'fast-check';
import { expect, it } from 'vitest';
import { certaintyOf } from '../../../src/bench/confidence.js';
import { seededRandom } from '../../../src/bench/random.js';

/** Ranks and confidences of the table that the source gives for small samples. */
it.each([
  [5, 1, 0.9375],
  [6, 1, 0.9688],
  [8, 1, 0.9922],
  [9, 2, 0.9609],
  [15, 4, 0.9648],
  [20, 6, 0.9586],
])('of %i samples takes those of rank %i from both ends', (count, rank, confidence) => {
  const samples = Array.from({ length: count }, (_, at) => at + 1);
  const { low, high, confidence: found } = certaintyOf(samples)!;
  expect([low, high]).toEqual([rank, count + 1 - rank]);
  expect(found).toBeCloseTo(confidence, 4);
});

it('knows nothing of a single sample', () => {
  expect(certaintyOf([1])).toBeUndefined();
  expect(certaintyOf([1, null, undefined])).toBeUndefined();
});

it('encloses the median of its samples, in any order', () => {
  fc.assert(
    fc.property(fc.array(fc.integer(), { minLength: 2, maxLength: 40 }), (samples) => {
      const { low, median, high, count } = certaintyOf(samples)!;
      expect(count).toBe(samples.length);
      expect(low).toBeLessThanOrEqual(median);
      expect(high).toBeGreaterThanOrEqual(median);
      expect(certaintyOf([...samples].reverse())).toEqual(certaintyOf(samples));
    }),
  );
});

it('encloses the true median as often as it says, of a skewed distribution', () => {
  const random = seededRandom(12);
  const trials = 4000;
  const isEnclosed = () => {
    const { low, high } = certaintyOf(Array.from({ length: 9 }, () => -Math.log(1 - random())))!;
    return low <= Math.LN2 && Math.LN2 <= high;
  };
  const share = Array.from({ length: trials }, isEnclosed).filter(Boolean).length / trials;
  // 0.961, with a standard error of 0.003.
  expect(share).toBeGreaterThan(0.95);
  expect(share).toBeLessThan(0.972);
});
