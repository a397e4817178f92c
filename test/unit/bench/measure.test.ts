import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  BACK_WINDOW_MS,
  longestGap,
  perceive,
  spreadOf,
  throughput,
  timeUntilBack,
} from '../../../src/bench/measure.js';

/** Answers every `everyMs` from one instant up to another. */
function steady(fromMs: number, toMs: number, everyMs: number): number[] {
  return Array.from({ length: Math.floor((toMs - fromMs) / everyMs) }, (_, at) => fromMs + at * everyMs);
}

describe('what a client perceives', () => {
  test('begins with the first answer, and the time before it is a gap', () => {
    const answeredMs = steady(300, 3300, 10);
    const latencyMs = answeredMs.map(() => 2);
    expect(perceive({ answeredMs, latencyMs, observedMs: 3300, referencePerS: 100 })).toEqual({
      answerCount: 300,
      firstAnswerMs: 300,
      longestGapMs: 300,
      backMs: 300,
      latencyP50Ms: 2,
      latencyP99Ms: 2,
    });
  });

  test('has its longest gap wherever that is, also behind the last answer', () => {
    expect(longestGap([100, 150, 900, 950], 1000)).toBe(750);
    expect(longestGap([100, 150], 1000)).toBe(850);
    expect(longestGap([], 1000)).toBe(1000);
  });

  test('is back only when a whole second holds enough', () => {
    // A good half second, then a stall, then all is well.
    const answeredMs = [...steady(100, 600, 10), ...steady(1400, 4000, 10)];
    expect(timeUntilBack(answeredMs, 100)).toBe(1400);
    expect(timeUntilBack(steady(0, 5000, 12), 100)).toBeNull();
    expect(timeUntilBack([], 100)).toBeNull();
  });

  test('was never back when there was nothing to come back to but no answer either', () => {
    expect(timeUntilBack([], 0)).toBeNull();
  });

  test('is back at an answer that a full second follows, whatever the answers', () => {
    const times = fc
      .array(fc.integer({ min: 0, max: 5000 }), { maxLength: 300 })
      .map((all) => all.sort((a, b) => a - b));
    fc.assert(
      fc.property(times, fc.integer({ min: 1, max: 60 }), (answeredMs, perS) => {
        const back = timeUntilBack(answeredMs, perS);
        const enough = (fromMs: number) =>
          throughput(answeredMs, fromMs, fromMs + BACK_WINDOW_MS) >= perS * 0.9;
        expect(back).toBe(answeredMs.find(enough) ?? null);
      }),
    );
  });
});

test('the spread of repetitions is their median and range; runs without a figure do not count', () => {
  expect(spreadOf([3, null, 1, undefined, 2])).toEqual({ median: 2, min: 1, max: 3, count: 3 });
  expect(spreadOf([1, 2, 3, 10])).toEqual({ median: 2.5, min: 1, max: 10, count: 4 });
  expect(spreadOf([null])).toBeUndefined();
});
