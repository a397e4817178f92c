import { afterEach, describe, expect, it } from 'vitest';
import {
  decide,
  parseDuration,
  requirePolicy,
  type DatedGeneration,
  type RetentionPolicy,
} from '../../../src/store/retention.js';

/** In local time, the oldest first, as generations 1, 2, … */
function savedAt(...times: readonly string[]): DatedGeneration[] {
  return times.map((time, index) => ({ generation: index + 1, createdMs: new Date(time).getTime() }));
}

const LATER_MS = new Date('2030-01-01T00:00').getTime();

function reasonsOf(generations: readonly DatedGeneration[], policy: RetentionPolicy, nowMs = LATER_MS) {
  return decide(generations, policy, nowMs).map(({ reasons }) => reasons.join(', '));
}

describe('a policy', () => {
  it('keeps the newest by number, also when the clock was set back', () => {
    const generations = savedAt('2026-03-01T12:00', '2026-03-01T13:00', '2026-03-01T11:00');
    expect(reasonsOf(generations, { last: 1 })).toEqual(['', '', 'last']);
    expect(reasonsOf(generations.toReversed(), { last: 2 })).toEqual(['', 'last', 'last']);
  });

  it('keeps the newest of each hour that has one, and nothing of the others', () => {
    const generations = savedAt(
      '2026-03-01T09:59',
      '2026-03-01T10:00',
      '2026-03-01T10:59',
      '2026-03-01T13:20',
      '2026-03-01T13:40',
    );
    expect(reasonsOf(generations, { hourly: 2 })).toEqual(['', '', 'hourly', '', 'hourly']);
    expect(reasonsOf(generations, { hourly: 3 })).toEqual(['hourly', '', 'hourly', '', 'hourly']);
  });

  it('keeps the oldest one while a rule has places left, and says so', () => {
    const generations = savedAt('2026-03-01T10:00', '2026-03-01T10:20', '2026-03-01T10:40');
    expect(reasonsOf(generations, { hourly: 1 })).toEqual(['', '', 'hourly']);
    expect(reasonsOf(generations, { hourly: 2, daily: 7 })).toEqual([
      'oldest hourly, oldest daily',
      '',
      'hourly, daily',
    ]);
  });

  it('counts weeks from Monday, over the end of a year', () => {
    // 28 December 2026 is a Monday, 3 January 2027 the Sunday of that week.
    const generations = savedAt(
      '2026-12-27T23:59',
      '2026-12-28T00:00',
      '2027-01-03T23:59',
      '2027-01-04T00:00',
    );
    expect(reasonsOf(generations, { weekly: 3 })).toEqual(['weekly', '', 'weekly', 'weekly']);
  });

  it('keeps what is younger than a duration, counted back from the newest generation and not from now', () => {
    const generations = savedAt(
      '2026-03-01T09:59',
      '2026-03-01T10:00',
      '2026-03-01T10:01',
      '2026-03-01T12:00',
    );
    expect(reasonsOf(generations, { within: { hours: 2 } })).toEqual(['', '', 'within 2h', 'within 2h']);
  });

  it('counts back months as the calendar has them', () => {
    const generations = savedAt(
      '2026-01-31T12:00',
      '2026-02-01T12:00',
      '2026-02-02T12:00',
      '2026-03-01T12:00',
    );
    expect(reasonsOf(generations, { within: { months: 1 } })).toEqual(['', '', 'within 1m', 'within 1m']);
    expect(reasonsOf(generations, { within: { days: 27, hours: 1 } })).toEqual([
      '',
      '',
      'within 27d1h',
      'within 27d1h',
    ]);
  });

  it('does not count back from a generation of the future, and keeps it', () => {
    const generations = savedAt('2026-03-01T10:00', '2026-03-01T12:00', '2031-01-01T00:00');
    expect(reasonsOf(generations, { within: { hours: 1 } })).toEqual(['', 'within 1h', 'within 1h']);
    const allFromFuture = generations.slice(2);
    expect(reasonsOf(allFromFuture, { within: { hours: 1 } })).toEqual(['within 1h']);
  });

  it('keeps everything with a duration that begins before all calendars', () => {
    const generations = savedAt('2026-03-01T10:00', '2026-03-01T12:00');
    expect(reasonsOf(generations, { within: { years: 999_999 } })).toEqual([
      'within 999999y',
      'within 999999y',
    ]);
  });

  it('keeps a generation that any of its rules keeps', () => {
    const generations = savedAt(
      '2026-03-01T10:00',
      '2026-03-02T10:00',
      '2026-03-02T11:00',
      '2026-03-02T11:30',
    );
    expect(reasonsOf(generations, { last: 1, hourly: 2, daily: 2 })).toEqual([
      'daily',
      'hourly',
      '',
      'last, hourly, daily',
    ]);
  });

  it.each<[RetentionPolicy]>([[{}], [{ last: 0 }], [{ within: {} }], [{ within: { hours: 0 }, daily: 0 }]])(
    'that keeps nothing is refused: %j',
    (policy) => {
      expect(() => requirePolicy(policy)).toThrow(expect.objectContaining({ code: 'USAGE' }));
    },
  );

  it.each<[RetentionPolicy]>([
    [{ last: -1 }],
    [{ last: 3, hourly: 1.5 }],
    [{ last: 3, daily: NaN }],
    [{ last: 3, within: { hours: Infinity } }],
  ])('with what is no count is refused: %j', (policy) => {
    expect(() => requirePolicy(policy)).toThrow(/a whole number/);
  });
});

describe('in a zone with summer time', () => {
  const zone = process.env['TZ'];
  afterEach(() => {
    if (zone === undefined) delete process.env['TZ'];
    else process.env['TZ'] = zone;
  });

  it('a day, a week and a duration go by the local clock', () => {
    process.env['TZ'] = 'Europe/Berlin';
    // Clocks go from 02:00 to 03:00 on Sunday 29 March 2026.
    const generations = savedAt('2026-03-28T23:30Z', '2026-03-29T21:30Z', '2026-03-29T22:30Z');
    expect(reasonsOf(generations, { daily: 2 })).toEqual(['', 'daily', 'daily']);
    expect(reasonsOf(generations, { weekly: 2 })).toEqual(['', 'weekly', 'weekly']);
    // From 00:30 to 00:30, in 23 hours.
    expect(reasonsOf(generations, { within: { days: 1 } })).toEqual(['', 'within 1d', 'within 1d']);
  });
});

describe('a duration', () => {
  it.each([
    ['2h', { years: 0, months: 0, days: 0, hours: 2 }],
    ['1y6m7d12h', { years: 1, months: 6, days: 7, hours: 12 }],
    ['30m', { years: 0, months: 30, days: 0, hours: 0 }],
    ['0d', { years: 0, months: 0, days: 0, hours: 0 }],
  ])('is read from %s', (text, expected) => {
    expect(parseDuration(text)).toEqual(expected);
  });

  it.each([
    '',
    '2',
    'h',
    '2 h',
    '2H',
    '-2h',
    '1.5h',
    '2w',
    '90min',
    '2h1d',
    '1h1h',
    '1e3h',
    `${'9'.repeat(20)}h`,
  ])('is not read from "%s"', (text) => {
    expect(parseDuration(text)).toBeUndefined();
  });
});
