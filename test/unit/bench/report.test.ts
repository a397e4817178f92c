import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { RATIOS } from '../../../src/bench/ratios.js';
import { renderReport } from '../../../src/bench/report/page.js';
import { resumeReportSchema } from '../../../src/bench/resume-report.js';
import { sampleReport, sampleRun } from './sample-report.js';

const report = sampleReport(
  [
    sampleRun({ scenario: 'lazy-raw', cache: 'warm', resumeMs: 20, completeMs: 100, demandFaults: 10 }),
    sampleRun({
      scenario: 'lazy-raw',
      cache: 'warm',
      round: 2,
      resumeMs: 40,
      completeMs: 300,
      demandFaults: 10,
    }),
    sampleRun({ scenario: 'lazy-raw', cache: 'warm', round: 0, resumeMs: 9000, completeMs: 9000 }),
    sampleRun({ scenario: 'qemu-full', cache: 'warm', resumeMs: 800, completeMs: 800 }),
    sampleRun({ scenario: 'private-map', cache: 'cold', resumeMs: 10, completeMs: null }),
    sampleRun({ scenario: 'private-map', cache: 'warm', resumeMs: 50, completeMs: null }),
    sampleRun({
      scenario: 'learned',
      cache: 'cold',
      resumeMs: 110,
      completeMs: 900,
      hotPackBytes: 10e6,
    }),
  ],
  [{ scenario: 'stream-sequential', ramMib: 1024, cache: 'warm', reason: 'failed: it was <unwell>' }],
);

describe('report.json', () => {
  test('has the form that its schema describes', () => {
    expect(v.parse(resumeReportSchema, report)).toEqual(report);
  });

  test('compares medians, without the run that the reference is taken from', () => {
    expect(report.ratios['directRawCompleteVsFull']).toBe(200 / 800);
    expect(report.ratios['faultP50RawUs']).toBe(5);
    expect(report.ratios['bulkVsBareUffdCopy']).toBeCloseTo(0.9);
    expect(report.ratios['maxRssBytes']).toBe(64 << 20);
  });

  test('does not count the time that the disk takes to read the hot pack', () => {
    expect(report.ratios['client90LearnedColdVsPrivateMapWarm']).toBeCloseTo((110 - 10) / 50);
  });

  test('says of every ratio either what it is or why it is missing', () => {
    const named = [...Object.keys(report.ratios), ...Object.keys(report.missing)];
    expect(named.sort()).toEqual(Object.keys(RATIOS).sort());
    expect(report.missing['directRawCompleteVsStream']).toBe('failed: it was <unwell>');
    expect(report.missing['faultP99LoadedVsIdle']).toContain('zstd');
    expect(report.missing['resume4GiBVs1GiB']).toContain('4096 MiB');
  });
});

describe('the certainty of a ratio', () => {
  const resumeMs = [20, 22, 24, 26, 28, 30];
  const rounds = [
    // The machine gets slower from round to round: the ratio stays.
    ...resumeMs.flatMap((ms, at) => [
      sampleRun({ scenario: 'lazy', cache: 'warm', round: at + 1, resumeMs: ms, completeMs: 60 * (at + 1) }),
      sampleRun({
        scenario: 'qemu-full',
        cache: 'warm',
        round: at + 1,
        resumeMs: 100,
        completeMs: 100 * (at + 1),
      }),
      sampleRun({ scenario: 'private-map', cache: 'warm', round: at + 1, resumeMs: 16, completeMs: null }),
    ]),
    // Without a partner in its round.
    sampleRun({ scenario: 'lazy', cache: 'warm', round: 7, resumeMs: 999, completeMs: 999 }),
  ];
  const { certainties, ratios } = sampleReport(rounds);

  test('comes from the ratios within rounds', () => {
    expect(certainties!['directZstdCompleteVsFull']).toEqual({
      median: 0.6,
      low: 0.6,
      high: 0.6,
      confidence: 0.96875,
      count: 6,
    });
    expect(certainties!['resumeVsPrivateMap']).toMatchObject({ low: 20 / 16, high: 30 / 16, count: 6 });
  });

  test('is absent where there is one round', () => {
    expect(ratios['faultP50RawUs']).toBe(5);
    expect(certainties).not.toHaveProperty('faultP50RawUs');
  });

  test('leaves a goal within the interval open', () => {
    const html = renderReport(sampleReport(rounds));
    const rowOf = (name: string) => new RegExp(`<tr><td><code>${name}.*?</tr>`).exec(html)![0];
    expect(rowOf('resumeVsPrivateMap')).toContain('not for sure');
    expect(rowOf('directRawCompleteVsFull')).not.toContain('not for sure');
    expect(rowOf('faultP50RawUs')).toContain('holds');
    expect(rowOf('faultP50RawUs')).not.toContain('not for sure');
  });

  test('counts what vCPUs wait for pages, with learning and without', () => {
    const learning = [1, 2].flatMap((round) => [
      sampleRun({
        scenario: 'learned',
        cache: 'cold',
        round,
        resumeMs: 20,
        completeMs: 60,
        demandFaults: 5,
        vcpuBlockedMs: 12 * round,
      }),
      sampleRun({
        scenario: 'lazy',
        cache: 'cold',
        round,
        resumeMs: 20,
        completeMs: 60,
        demandFaults: 50,
        vcpuBlockedMs: 120 * round,
      }),
    ]);
    const report = sampleReport(learning);
    expect(report.ratios['vcpuBlockedLearnedColdVsLazyCold']).toBeCloseTo(0.1);
    expect(report.certainties!['vcpuBlockedLearnedColdVsLazyCold']!.high).toBeCloseTo(0.1);
  });
});

describe('report.html', () => {
  const html = renderReport(report);

  test('needs nothing but itself', () => {
    expect(html).not.toMatch(/https?:|\bsrc=|\bhref=|url\(|@import|<script|<link/);
  });

  test('draws charts that are well-formed, with numbers in them', () => {
    const drawings = html.match(/<svg.*?<\/svg>/gs) ?? [];
    expect(drawings.length).toBeGreaterThan(10);
    for (const drawing of drawings) {
      expect(drawing).not.toMatch(/NaN|Infinity|undefined|null/);
      expect(unclosed(drawing)).toEqual([]);
    }
  });

  test('shows what the host says of itself as text', () => {
    expect(html).toContain('a &quot;CPU&quot; &amp; more');
    expect(html).toContain('failed: it was &lt;unwell&gt;');
  });
});

/** Elements that are opened and not closed, or closed and not opened. */
function unclosed(xml: string): string[] {
  const open: string[] = [];
  for (const [, closing, name, , selfClosed] of xml.matchAll(
    /<(\/?)([a-z]+)((?:\s+[\w-]+="[^"<]*")*)\s*(\/?)>/gi,
  )) {
    if (closing === '/') {
      if (open.at(-1) !== name) return [...open, `/${name}`];
      open.pop();
    } else if (selfClosed !== '/') open.push(name!);
  }
  const rest = xml.replace(/<[^<>]*>/g, '');
  return /[<>]/.test(rest) ? [...open, rest] : open;
}
