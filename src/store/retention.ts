/**
 * Which generations of a checkpoint a policy keeps: restic's rules, on numbers and times alone. A generation that any
 * rule keeps stays. Hours, days and weeks are those of the calendar, in local time, and only those count that have a
 * generation; of each the newest one is kept. While a rule has not kept as many as it may, it also keeps the oldest.
 * Unlike restic's, "newest" goes by the numbers of generations: they grow also when the host's clock is set back.
 */
import { VmckptError } from '../errors.js';

/** Months and days as the calendar has them. What is not there is 0. */
export interface CalendarDuration {
  readonly years?: number;
  readonly months?: number;
  readonly days?: number;
  readonly hours?: number;
}

/** What is not there, or 0, keeps nothing. Counts are whole numbers, or Infinity. */
export interface RetentionPolicy {
  /** How many of the newest generations. */
  readonly last?: number;
  /** All that are younger than this, counted back from the newest one. */
  readonly within?: CalendarDuration;
  /** For how many hours: the newest one of each. */
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
}

export interface DatedGeneration {
  readonly generation: number;
  readonly createdMs: number;
}

export interface Decision {
  readonly generation: number;
  /** Which rules keep it, as `last`, `within 2h`, `daily`, `oldest daily`. Without any it may go. */
  readonly reasons: readonly string[];
}

/** For each generation, the newest first, the reason to keep it. */
type Rule = (newestFirst: readonly DatedGeneration[]) => readonly (string | undefined)[];

const DURATION = /^(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,6})d)?(?:(\d{1,7})h)?$/;

/**
 * `1y6m7d12h`: years, months, days and hours, as restic has them.
 * @returns undefined when it is no duration
 */
export function parseDuration(text: string): CalendarDuration | undefined {
  const found = DURATION.exec(text);
  if (found === null || text === '') return undefined;
  const [years, months, days, hours] = found.slice(1).map((digits) => Number(digits ?? 0));
  return { years: years!, months: months!, days: days!, hours: hours! };
}

/**
 * A policy that keeps nothing is a mistake: it would remove everything.
 * @throws VmckptError USAGE
 */
export function requirePolicy(policy: RetentionPolicy): void {
  const { last = 0, within = {}, hourly = 0, daily = 0, weekly = 0 } = policy;
  const counts = [last, hourly, daily, weekly];
  const amounts = Object.values(within) as number[];
  const wrong =
    counts.find((count) => count !== Infinity && !isWhole(count)) ??
    amounts.find((amount) => !isWhole(amount));
  if (wrong !== undefined)
    throw new VmckptError('USAGE', `expected a whole number of generations to keep, found ${wrong}`);
  if ([...counts, ...amounts].some((count) => count > 0)) return;
  throw new VmckptError('USAGE', 'nothing says which generations to keep', {
    hint: 'Give one or more rules, as in vmckpt prune --keep-last 3 --keep-daily 7 NAME. With --dry-run they only show what would go.',
  });
}

/**
 * @param generations of one name, in any order; all of them, because what a rule keeps depends on the others
 * @param nowMs generations from the future (a clock that was wrong) are none to count back from
 * @returns a decision for each of them, the oldest generation first
 */
export function decide(
  generations: readonly DatedGeneration[],
  policy: RetentionPolicy,
  nowMs: number,
): Decision[] {
  const newestFirst = [...generations].sort((a, b) => b.generation - a.generation);
  const answers = rulesOf(policy, nowMs).map((rule) => rule(newestFirst));
  return newestFirst
    .map(({ generation }, index) => ({
      generation,
      reasons: answers.map((answer) => answer[index]).filter((reason) => reason !== undefined),
    }))
    .reverse();
}

function isWhole(count: number): boolean {
  return Number.isInteger(count) && count >= 0;
}

function rulesOf(policy: RetentionPolicy, nowMs: number): Rule[] {
  const { last = 0, within = {}, hourly = 0, daily = 0, weekly = 0 } = policy;
  return [
    (newestFirst) => newestFirst.map((_, index) => (index < last ? 'last' : undefined)),
    keepWithin(within, nowMs),
    keepEach('hourly', hourly, hourOf),
    keepEach('daily', daily, dayOf),
    keepEach('weekly', weekly, weekOf),
  ];
}

function keepWithin(within: CalendarDuration, nowMs: number): Rule {
  const text = formatDuration(within);
  return (newestFirst) => {
    if (text === '') return [];
    const newest = newestFirst.find(({ createdMs }) => createdMs <= nowMs);
    const startMs = newest === undefined ? -Infinity : before(newest.createdMs, within);
    // So said that a start before all calendars (NaN) keeps everything.
    return newestFirst.map(({ createdMs }) => (createdMs <= startMs ? undefined : `within ${text}`));
  };
}

/** The newest generation of each of `count` spans of time, and at the end the oldest one if the count is not used up. */
function keepEach(name: string, count: number, spanOf: (time: Date) => string): Rule {
  return (newestFirst) => {
    let left = count;
    let former: string | undefined;
    return newestFirst.map(({ createdMs }, index) => {
      if (left === 0) return undefined;
      const span = spanOf(new Date(createdMs));
      const isNewest = span !== former;
      if (!isNewest && index < newestFirst.length - 1) return undefined;
      former = span;
      left--;
      return isNewest ? name : `oldest ${name}`;
    });
  };
}

function dayOf(time: Date): string {
  return `${time.getFullYear()}-${time.getMonth()}-${time.getDate()}`;
}

function hourOf(time: Date): string {
  return `${dayOf(time)} ${time.getHours()}`;
}

/** Its Monday. */
function weekOf(time: Date): string {
  const daysSinceMonday = (time.getDay() + 6) % 7;
  return dayOf(new Date(time.getFullYear(), time.getMonth(), time.getDate() - daysSinceMonday));
}

function before(timeMs: number, { years = 0, months = 0, days = 0, hours = 0 }: CalendarDuration): number {
  const time = new Date(timeMs);
  time.setFullYear(time.getFullYear() - years, time.getMonth() - months, time.getDate() - days);
  return time.getTime() - hours * 3_600_000;
}

/** Empty when it is none. */
function formatDuration({ years, months, days, hours }: CalendarDuration): string {
  const parts: readonly (readonly [number | undefined, string])[] = [
    [years, 'y'],
    [months, 'm'],
    [days, 'd'],
    [hours, 'h'],
  ];
  return parts.map(([amount = 0, unit]) => (amount === 0 ? '' : `${amount}${unit}`)).join('');
}
