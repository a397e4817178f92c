/** Compares this build with another one, which ran in turns with it on one machine: each figure, within each round. */
import { certaintyOf } from './confidence.js';
import { FIGURES, type FigureName } from './figures.js';
import { spreadOf } from './measure.js';
import type { Comparison, Run } from './resume-report.js';
import type { Scenario } from './scenario.js';

/** The figures that a user notices, and their parts. */
const COMPARED: readonly FigureName[] = [
  'resumeMs',
  'completeMs',
  'firstAnswerMs',
  'client90Ms',
  'http90Ms',
  'faultP50Us',
];

/** The suffix of a scenario's name that says that the other build restores. */
export const BEFORE = ' (before)';

/** The same scenario, for the other build. */
export function byOtherBuild(scenario: Scenario): Scenario {
  const { name, title } = scenario;
  return { ...scenario, name: `${name}${BEFORE}`, title: `${title}${BEFORE}` };
}

/** Compares every scenario that both builds have restored. The result is empty if there is no other build. */
export function compareBuilds(runs: readonly Run[]): Comparison[] {
  const after = runs.filter(({ round, scenario }) => round > 0 && !scenario.endsWith(BEFORE));
  const pairs = after.flatMap((run) => {
    const before = runs.find((other) => isBefore(other, run));
    return before === undefined ? [] : [{ before, after: run }];
  });
  const groups = new Map<string, Pair[]>();
  for (const pair of pairs) {
    const { scenario, cache, ramMib } = pair.after;
    const place = `${ramMib} ${cache} ${scenario}`;
    groups.set(place, [...(groups.get(place) ?? []), pair]);
  }
  return [...groups.values()].flatMap((group) => COMPARED.flatMap((figure) => compare(group, figure)));
}

interface Pair {
  readonly before: Run;
  readonly after: Run;
}

function isBefore(other: Run, { scenario, cache, ramMib, round }: Run): boolean {
  return (
    other.scenario === `${scenario}${BEFORE}` &&
    other.cache === cache &&
    other.ramMib === ramMib &&
    other.round === round
  );
}

function compare(pairs: readonly Pair[], figure: FigureName): Comparison[] {
  const of = (run: Run) => FIGURES[figure](run);
  const ratios = pairs.map(({ before, after }) => {
    const [from, to] = [of(before), of(after)];
    return from && to ? to / from : undefined;
  });
  const [ratio, certainty] = [spreadOf(ratios), certaintyOf(ratios)];
  if (ratio === undefined) return [];
  const { scenario, cache, ramMib } = pairs[0]!.after;
  return [{ scenario, cache, ramMib, figure, ratio, ...(certainty && { certainty }) }];
}
