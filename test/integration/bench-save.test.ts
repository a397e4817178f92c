/** The smallest bench of saves there is, run as a user does, and what it leaves behind: two files and nothing else. */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { saveReportSchema } from '../../src/bench/saves/save-report.js';
import { guestFile } from '../support/cache.js';
import { startCli } from '../support/command.js';
import { suiteDirectory } from '../support/vitest.js';

describe('vmckpt bench save', () => {
  const directory = suiteDirectory();

  test('measures saves, captures beside clients and restores, and draws a report that needs nothing else', async () => {
    const [out, temporary] = [path.join(directory, 'out'), path.join(directory, 'tmp')];
    mkdirSync(temporary);
    const guest = path.dirname(guestFile('vmlinuz'));
    const few = ['--ram-mib', '256', '--rounds', '1', '--saves', '2', '--capture-s', '2'];
    const some = ['--loads', 'rest,steady', '--scenarios', 'qemu-background-snapshot,qemu-mapped-ram,vmckpt'];
    const { code, stderr } = await startCli(
      ['bench', 'save', '--out', out, '--guest', guest, ...few, ...some],
      { env: { TMPDIR: temporary } },
    ).ended;
    const unexpected = stderr.replace(/^(The load|256 MiB|saving|round).*\n/gm, '');
    expect({ code, stderr: unexpected }).toEqual({ code: 0, stderr: '' });

    const report = v.parse(saveReportSchema, JSON.parse(readFileSync(path.join(out, 'report.json'), 'utf8')));
    const found = report.runs.map(({ scenario, load }) => `${scenario} ${load}`).sort();
    const saved = ['qemu-background-snapshot', 'vmckpt-first', 'vmckpt-next'];
    expect(found).toEqual(
      [
        ...saved.flatMap((name) => [`${name} rest`, `${name} steady`]),
        ...['undisturbed', 'every-1s', 'every-10s'].map((name) => `${name} steady`),
        ...['restore-full', 'restore-chain'].map((name) => `${name} rest`),
      ].sort(),
    );
    for (const { scenario, figures } of report.runs.filter((run) => saved.includes(run.scenario))) {
      expect(figures['totalMs']).toBeGreaterThan(0);
      expect(figures['storedBytes']).toBeGreaterThan(0);
      expect((figures['processPeakBytes'] ?? 0) > 0).toBe(scenario.startsWith('vmckpt'));
    }
    const everySecond = report.runs.find(({ scenario }) => scenario === 'every-1s')!;
    expect(everySecond.captures!.length).toBeGreaterThan(0);
    expect(everySecond.figures['getsPerS']).toBeGreaterThan(0);
    expect(report.ratios['guestThroughputEverySecond']).toBeGreaterThan(0);
    expect(report.ratios['nextStoredShare']).toBeGreaterThan(0);
    expect(report.missing['nextSaveVsStock4GiB']).toEqual(expect.any(String));
    expect(report.absences.map(({ reason }) => reason)).toEqual([
      expect.stringContaining('mapped-ram needs QEMU 9'),
      expect.stringContaining('mapped-ram needs QEMU 9'),
    ]);

    const html = readFileSync(path.join(out, 'report.html'), 'utf8');
    expect(html).toContain('<svg');
    expect(html).not.toMatch(/https?:|\bsrc=|\bhref=|url\(/);
    expect(readdirSync(out).sort()).toEqual(['report.html', 'report.json']);
    expect(readdirSync(temporary)).toEqual([]);
  });
});
