/** The smallest bench there is, run as a user does, and what it leaves behind: two files and nothing else. */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { resumeReportSchema } from '../../src/bench/resume-report.js';
import { PACKAGE_ROOT } from '../../src/util/package-paths.js';
import { guestFile } from '../support/cache.js';
import { startCli } from '../support/command.js';
import { untilSaid } from '../support/faults.js';
import { suiteDirectory } from '../support/vitest.js';

const SCENARIOS = ['qemu-full', 'lazy'];

describe('vmckpt bench resume', () => {
  const directory = suiteDirectory();

  /** Its temporary files and sockets get a folder of their own, which names its processes as well. */
  function bench(name: string) {
    const [out, temporary] = [path.join(directory, name), path.join(directory, `${name}.tmp`)];
    mkdirSync(temporary);
    const options = [
      '--ram-mib',
      '256',
      '--rounds',
      '1',
      '--observe-ms',
      '1500',
      '--against',
      PACKAGE_ROOT,
      '--scenarios',
      SCENARIOS.join(','),
    ];
    const guest = path.dirname(guestFile('vmlinuz'));
    const running = startCli(['bench', 'resume', '--out', out, '--guest', guest, ...options], {
      env: { TMPDIR: temporary },
    });
    return { out, temporary, running };
  }

  test('measures every scenario in both states of the cache, and draws a report that needs nothing else', async () => {
    const { out, temporary, running } = bench('whole');
    const { code, stderr } = await running.ended;
    expect({ code, stderr: stderr.replace(/^(The load|256 MiB|saving).*\n/gm, '') }).toEqual({
      code: 0,
      stderr: '',
    });

    const report = v.parse(
      resumeReportSchema,
      JSON.parse(readFileSync(path.join(out, 'report.json'), 'utf8')),
    );
    const measured = report.runs.filter(({ round }) => round > 0);
    const places = measured.map(({ scenario, cache }) => `${scenario} ${cache}`).sort();
    expect(places).toEqual(
      [...SCENARIOS, 'lazy (before)'].flatMap((name) => [`${name} cold`, `${name} warm`]).sort(),
    );
    for (const {
      scenario,
      cache,
      answers,
      perceived,
      resumeMs,
      resident,
      later,
      storageReadBytes,
      transfer,
    } of measured) {
      expect(resumeMs).toBeGreaterThan(0);
      expect(perceived.ping.firstAnswerMs).toBeGreaterThan(resumeMs);
      expect(answers.ping.answeredMs).toHaveLength(perceived.ping.answerCount);
      expect(perceived.memcached.answerCount).toBeGreaterThan(0);
      expect(resident.length).toBeGreaterThan(0);
      expect(later.memoryIntact).toBe(true);
      expect(storageReadBytes === null).toBe(cache === 'warm');
      expect(transfer === undefined).toBe(scenario === 'qemu-full');
    }
    const compared = report.comparisons!.filter(({ figure }) => figure === 'resumeMs');
    expect(compared.map(({ scenario, cache }) => `${scenario} ${cache}`).sort()).toEqual([
      'lazy cold',
      'lazy warm',
    ]);
    expect(report.ratios['directZstdCompleteVsFull']).toBeGreaterThan(0);
    expect(report.ratios['faultP50ZstdUs']).toBeGreaterThan(0);
    expect(report.missing['client90LearnedColdVsLazyCold']).toEqual(expect.any(String));

    const html = readFileSync(path.join(out, 'report.html'), 'utf8');
    expect(html).toContain('<svg');
    expect(html).not.toMatch(/https?:|\bsrc=|\bhref=|url\(/);
    expect(readdirSync(out).sort()).toEqual(['report.html', 'report.json']);
    expectNothingLeft(temporary);
  });

  test('leaves nothing behind when it is interrupted', async () => {
    const { out, temporary, running } = bench('interrupted');
    await untilSaid(running, 'round 1 of');
    running.kill('SIGINT');
    expect((await running.ended).code).toBe(130);
    expect(readdirSync(out)).toEqual([]);
    expectNothingLeft(temporary);
  });
});

function expectNothingLeft(temporary: string): void {
  const processes = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry) && mentions(entry, temporary));
  expect(processes).toEqual([]);
  expect(readdirSync(temporary)).toEqual([]);
}

function mentions(pid: string, text: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(text);
  } catch {
    return false; // it has just ended
  }
}
