import { expect, it } from 'vitest';
import { BEFORE, byOtherBuild, compareBuilds } from '../../../src/bench/comparison.js';
import type { Run } from '../../../src/bench/resume-report.js';
import type { Scenario } from '../../../src/bench/scenario.js';
import { sampleRun } from './sample-report.js';

function run(scenario: string, round: number, resumeMs: number): Run {
  return sampleRun({ scenario, round, resumeMs, completeMs: 1000, cache: 'warm' });
}

it('compares runs of the same round, scenario and cache', () => {
  const comparisons = compareBuilds([
    run('lazy', 1, 110),
    run(`lazy${BEFORE}`, 1, 100),
    run('lazy', 2, 150),
    run(`lazy${BEFORE}`, 2, 200),
    run('lazy', 3, 90),
    run('eager', 1, 1000),
  ]);
  const resume = comparisons.filter(({ figure }) => figure === 'resumeMs');
  expect(resume).toEqual([
    {
      scenario: 'lazy',
      cache: 'warm',
      ramMib: 1024,
      figure: 'resumeMs',
      ratio: { median: (1.1 + 0.75) / 2, min: 0.75, max: 1.1, count: 2 },
      certainty: { median: (1.1 + 0.75) / 2, low: 0.75, high: 1.1, confidence: 0.5, count: 2 },
    },
  ]);
});

it('compares nothing where no other build was measured', () => {
  expect(compareBuilds([run('lazy', 1, 110)])).toEqual([]);
});

it('leaves a scenario as it is for the other build, but for its name', () => {
  const restore = () => Promise.reject(new Error('not called'));
  const scenario: Scenario = { name: 'learned', title: 'Learned', artefact: 'checkpointLearned', restore };
  const title = `Learned${BEFORE}`;
  expect(byOtherBuild(scenario)).toEqual({ ...scenario, name: `learned${BEFORE}`, title });
});
