import * as v from 'valibot';
import { describe, expect, it } from 'vitest';
import { summarizeSaves } from '../../../src/bench/saves/figures.js';
import { renderSaveReport } from '../../../src/bench/saves/page.js';
import { computeSaveRatios, SAVE_RATIOS } from '../../../src/bench/saves/ratios.js';
import {
  saveReportSchema,
  type SaveAbsence,
  type SaveBenchReport,
  type SaveRun,
} from '../../../src/bench/saves/save-report.js';
import { sampleReport } from './sample-report.js';

const totals = (scenario: string, ramMib: number, totalMs: readonly number[]): SaveRun[] =>
  totalMs.map((ms, at) => ({ scenario, load: 'rest', ramMib, round: at + 1, figures: { totalMs: ms } }));

const runs: SaveRun[] = [
  ...totals('qemu-background-snapshot', 1024, [1000, 2000, 1000]),
  ...totals('vmckpt-first', 1024, [800, 1600, 900]),
  ...totals('vmckpt-tracked-last', 1024, [100, 200, 100]),
  {
    scenario: 'every-1s',
    load: 'steady',
    ramMib: 1024,
    round: 3,
    figures: { getsPerS: 900, pauseMs: 20 },
    captures: [{ startedMs: 1000, totalMs: 200, pauseMs: 20, storedBytes: 4096 }],
    getsEachS: [880, 920],
  },
  { scenario: 'undisturbed', load: 'steady', ramMib: 1024, round: 3, figures: { getsPerS: 1000 } },
];
const absences: SaveAbsence[] = [
  { scenario: 'vmckpt-next', load: 'rest', ramMib: 1024, reason: 'failed: it was <unwell>' },
];
const sizesMib = [1024, 4096];
const summaries = summarizeSaves(runs);
const values = computeSaveRatios({ runs, summaries, absences, sizesMib });

describe('the ratios of saves', () => {
  it('hold saves against the goals that were set for them', () => {
    const goals = Object.entries(SAVE_RATIOS).map(([name, { goal }]) => [name, goal]);
    expect(Object.fromEntries(goals)).toEqual({
      firstSaveVsStock: { atMost: 0.9 },
      nextSaveVsStock1GiB: { atMost: 0.15 },
      nextSaveVsStock4GiB: { atMost: 0.08 },
      nextUntrackedSaveVsStock: { atMost: 0.5 },
      nextStoredShare: { atMost: 0.03 },
      pauseVsStock: { atMost: 0.25 },
      pause4GiBVs1GiB: { atMost: 1.2 },
      guestThroughputEverySecond: { atLeast: 0.9 },
      guestThroughputEvery10s: { atLeast: 0.98 },
      chainVsFullRestoreRuns: { atMost: 1.1 },
      chainVsFullRestoreFirstAnswer: { atMost: 1.1 },
      chainVsFullRestoreComplete: { atMost: 1.1 },
      maxRssBytes: { atMost: 200e6 },
    });
  });

  it('are of medians, and their certainty of what was measured in one round', () => {
    expect(values.ratios).toEqual({
      firstSaveVsStock: 0.9,
      nextSaveVsStock1GiB: 0.1,
      guestThroughputEverySecond: 0.9,
    });
    expect(values.certainties['firstSaveVsStock']).toMatchObject({
      median: 0.8,
      low: 0.8,
      high: 0.9,
      count: 3,
    });
    expect(values.certainties['guestThroughputEverySecond']).toBeUndefined();
  });

  it('that are missing say why', () => {
    expect(Object.keys({ ...values.ratios, ...values.missing }).sort()).toEqual(
      Object.keys(SAVE_RATIOS).sort(),
    );
    expect(values.missing['nextUntrackedSaveVsStock']).toBe('failed: it was <unwell>');
    expect(values.missing['nextSaveVsStock4GiB']).toContain('4096 MiB');
  });

  it('stand in a report with charts, in which no text is taken for HTML', () => {
    const report: SaveBenchReport = {
      kind: 'vmckpt bench save',
      version: 1,
      options: { ramMib: sizesMib, rounds: 3, seed: 1, saves: 10, captureS: 2, loads: ['rest', 'steady'] },
      environment: { ...sampleReport([], []).environment, diskWriteBytesPerS: 1e9 },
      ...values,
      ratios: { ...values.ratios },
      certainties: { ...values.certainties },
      missing: { ...values.missing },
      summaries,
      absences,
      runs,
    };
    expect(v.parse(saveReportSchema, report)).toEqual(report);
    const html = renderSaveReport(report);
    expect(html).toContain('it was &lt;unwell&gt;');
    expect(html).not.toContain('<unwell>');
    expect(html).toContain('Gets answered in each second');
    expect(html).toContain('stroke="var(--scenario-10)"');
  });
});
