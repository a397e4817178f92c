/** Retention: whatever the times and the rules are, the newest generation stays, and more rules keep more. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decide, type DatedGeneration, type RetentionPolicy } from '../../src/store/retention.js';

const NOW_MS = Date.UTC(2026, 5, 15, 12, 34, 56);
const HOUR_MS = 3_600_000;
const count = fc.oneof(fc.nat(6), fc.constant(Infinity));
const policy: fc.Arbitrary<RetentionPolicy> = fc
  .record({
    last: count,
    within: fc.record({ days: fc.nat(30), hours: fc.nat(50) }),
    hourly: count,
    daily: count,
    weekly: count,
  })
  .filter(({ last, within, hourly, daily, weekly }) => {
    return last + within.days + within.hours + hourly + daily + weekly > 0;
  });

/** Minutes to years between two saves; clocks that are set back, too, if they may. */
function history({ mayGoBack }: { readonly mayGoBack: boolean }): fc.Arbitrary<DatedGeneration[]> {
  const minutes = fc.oneof(fc.nat(90), fc.nat(3000), fc.nat(30_000));
  const step = mayGoBack ? fc.tuple(minutes, fc.boolean()).map(([m, back]) => (back ? -m : m)) : minutes;
  return fc.array(step, { minLength: 1, maxLength: 40 }).map((steps) => {
    const generations: DatedGeneration[] = [];
    let createdMs = NOW_MS;
    for (const [index, minutesBefore] of steps.entries()) {
      generations.unshift({ generation: 100 - index, createdMs });
      createdMs -= minutesBefore * 60_000;
    }
    return generations;
  });
}

const anyHistory = history({ mayGoBack: true });

function keptBy(generations: readonly DatedGeneration[], rules: RetentionPolicy): DatedGeneration[] {
  const kept = new Set(
    decide(generations, rules, NOW_MS)
      .filter(({ reasons }) => reasons.length > 0)
      .map(({ generation }) => generation),
  );
  return generations.filter(({ generation }) => kept.has(generation));
}

describe('a policy', () => {
  it('decides on each generation once, the oldest first, in whatever order they are given', () => {
    fc.assert(
      fc.property(anyHistory, policy, (generations, rules) => {
        const decisions = decide(generations, rules, NOW_MS);
        expect(decisions.map(({ generation }) => generation)).toEqual(
          generations.map(({ generation }) => generation),
        );
        expect(decide(generations.toReversed(), rules, NOW_MS)).toEqual(decisions);
      }),
    );
  });

  it('never lets the newest generation go', () => {
    fc.assert(
      fc.property(anyHistory, policy, (generations, rules) => {
        expect(keptBy(generations, rules).at(-1)).toEqual(generations.at(-1));
      }),
    );
  });

  it('keeps the same again, of what it has kept', () => {
    fc.assert(
      fc.property(anyHistory, policy, (generations, rules) => {
        const kept = keptBy(generations, rules);
        expect(keptBy(kept, rules)).toEqual(kept);
      }),
    );
  });

  it('keeps what each of its rules keeps by itself, and nothing else', () => {
    fc.assert(
      fc.property(anyHistory, policy, (generations, rules) => {
        const names = Object.keys(rules) as (keyof RetentionPolicy)[];
        const single = names.map((rule): RetentionPolicy => ({ [rule]: rules[rule] }));
        const byAny = new Set(single.flatMap((rule) => keptBy(generations, rule)));
        expect(keptBy(generations, rules)).toEqual(generations.filter((one) => byAny.has(one)));
      }),
    );
  });

  it('keeps no fewer with a larger number', () => {
    const rule = fc.constantFrom('last' as const, 'hourly' as const, 'daily' as const, 'weekly' as const);
    fc.assert(
      fc.property(anyHistory, rule, fc.nat(10), (generations, name, n) => {
        const kept = keptBy(generations, { [name]: n });
        expect(kept.length).toBeLessThanOrEqual(n);
        expect(keptBy(generations, { [name]: n + 1 })).toEqual(expect.arrayContaining(kept));
      }),
    );
  });

  it('keeps the newest generation of each of the newest hours', () => {
    fc.assert(
      fc.property(history({ mayGoBack: false }), fc.integer({ min: 1, max: 20 }), (generations, n) => {
        const newestOfHour = new Map(
          generations.map((one) => [Math.floor(localMs(one.createdMs) / HOUR_MS), one]),
        );
        const expected = new Set([...newestOfHour.values()].slice(-n));
        if (newestOfHour.size < n) expected.add(generations[0]!);
        expect(new Set(keptBy(generations, { hourly: n }))).toEqual(expected);
      }),
    );
  });

  it('leaves the same, whether it is applied after each save or once', () => {
    fc.assert(
      fc.property(history({ mayGoBack: false }), fc.integer({ min: 1, max: 5 }), (generations, n) => {
        for (const rules of [{ last: n }, { hourly: n }, { daily: n }, { last: n, daily: n }]) {
          let kept: DatedGeneration[] = [];
          for (const saved of generations) kept = keptBy([...kept, saved], rules);
          expect(kept).toEqual(keptBy(generations, rules));
        }
      }),
    );
  });
});

function localMs(timeMs: number): number {
  return timeMs - new Date(timeMs).getTimezoneOffset() * 60_000;
}
