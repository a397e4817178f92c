/**
 * How sure a median is, whatever the distribution of its samples. Each sample lies above the true median with probability
 * one half, so the number of those above it is binomial, and the k-th smallest and k-th largest sample enclose it with
 * probability 1 − 2·P(Bin(n, ½) < k). Le Boudec, Performance Evaluation of Computer and Communication Systems, 2010,
 * theorem 2.1; it is the sign test turned around.
 */
import { spreadOf } from './measure.js';

/** Six samples are the fewest that reach it. */
const WANTED_CONFIDENCE = 0.95;

export interface Certainty {
  readonly median: number;
  readonly low: number;
  readonly high: number;
  /** The probability that the true median lies between `low` and `high`. */
  readonly confidence: number;
  readonly count: number;
}

/**
 * @param samples null and undefined do not count
 * @returns the narrowest interval that is sure enough, else the range of all samples, which says less; undefined for
 * fewer than two samples
 */
export function certaintyOf(samples: readonly (number | null | undefined)[]): Certainty | undefined {
  const sorted = samples.filter((value) => value !== null && value !== undefined).sort((a, b) => a - b);
  const count = sorted.length;
  if (count < 2) return undefined;
  let rank = 1;
  while (confidenceOf(count, rank + 1) >= WANTED_CONFIDENCE) rank++;
  return {
    median: spreadOf(sorted)!.median,
    low: sorted[rank - 1]!,
    high: sorted[count - rank]!,
    confidence: confidenceOf(count, rank),
    count,
  };
}

/** "0.95–1.02, 97 % sure, 6 samples" */
export function intervalText(
  { low, high, confidence, count }: Certainty,
  show: (value: number) => string = (value) => value.toFixed(3),
): string {
  return `${show(low)}–${show(high)}, ${Math.round(confidence * 100)} % sure, ${count} samples`;
}

/** The probability that the median lies between the `rank`-th smallest and the `rank`-th largest of `count` samples. */
function confidenceOf(count: number, rank: number): number {
  let below = 0;
  let probability = 0.5 ** count;
  for (let successes = 0; successes < rank; successes++) {
    below += probability;
    probability *= (count - successes) / (successes + 1);
  }
  return 1 - 2 * below;
}
