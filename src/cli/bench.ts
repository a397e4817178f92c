/** `vmckpt bench resume --out DIR` */
import os from 'node:os';
import path from 'node:path';
import { Argument, type Command } from 'commander';
import { intervalText } from '../bench/confidence.js';
import type { Accelerator } from '../bench/guest.js';
import type { ResumeReport } from '../bench/resume-report.js';
import { SCENARIOS } from '../bench/scenarios.js';
import { VmckptError } from '../errors.js';
import { findQemuBinary } from '../qemu/launch.js';
import { PACKAGE_ROOT } from '../util/package-paths.js';
import { contextOf, interruptible, option, verb } from './verb.js';

/** A load above this share of the processors falsifies the measurements. */
const QUIET_LOAD = 0.5;
const MIN_RAM_MIB = 256;

interface BenchFlags {
  readonly out: string;
  readonly ramMib: readonly number[];
  readonly rounds: number;
  readonly scenarios: readonly string[];
  readonly seed: number;
  readonly against?: string;
  readonly observeMs: number;
  readonly accel: Accelerator;
  readonly qemu?: string;
  readonly guest: string;
}

export function benchCommand(): Command {
  const all = SCENARIOS.map(({ name }) => name);
  return verb(
    'bench',
    'Measure how quickly a real guest serves its clients again, compared with stock QEMU.',
    ['failed', 'usage', 'notFound', 'notPermitted', 'incompatible', 'interrupted'],
  )
    .addArgument(new Argument('<experiment>', 'what to measure').choices(['resume']))
    .addOption(
      option(
        '--out <dir>',
        'where report.json and report.html go, on the disk to measure',
      ).makeOptionMandatory(),
    )
    .addOption(
      option('--ram-mib <sizes>', 'sizes of the guest, with commas')
        .argParser((text) => text.split(',').map((each) => wholeNumber('--ram-mib', each, MIN_RAM_MIB)))
        .default([1024, 4096], '1024,4096'),
    )
    .addOption(
      option('--rounds <n>', 'how often each scenario is measured; fewer than 6 are never 95 % sure')
        .argParser(numberOf('--rounds', 1))
        .default(6),
    )
    .addOption(
      option('--scenarios <names>', `some of ${all.join(', ')}`)
        .argParser((text) => text.split(','))
        .default(all, 'all'),
    )
    .addOption(
      option('--seed <n>', 'seed that repeats the order of the measurements')
        .argParser(numberOf('--seed', 0))
        .default(1),
    )
    .addOption(
      option('--observe-ms <n>', 'how long a guest is watched once it runs')
        .argParser(numberOf('--observe-ms', 1000))
        .default(10_000),
    )
    .addOption(option('--against <checkout>', 'another build of vmckpt to measure in turns with this one'))
    .addOption(option('--accel <name>', 'how QEMU runs the guest').choices(['tcg', 'kvm']).default('tcg'))
    .addOption(option('--qemu <binary>', 'the QEMU binary to use'))
    .addOption(
      option('--guest <dir>', 'the guest that scripts/setup.sh builds').default(
        path.join(PACKAGE_ROOT, '.cache', 'guest'),
        '.cache/guest of the checkout',
      ),
    )
    .action(async (_experiment: string, flags: BenchFlags, command: Command) => {
      const { output } = contextOf(command);
      const load = os.loadavg()[0]!;
      if (load > QUIET_LOAD * os.availableParallelism())
        output.message(`The load of this machine is ${load.toFixed(1)}: the figures will not be reliable.`);
      // Imported here, because no other verb needs it.
      const { benchResume, guestFilesIn } = await import('../bench/resume.js');
      const report = await benchResume({
        outDir: path.resolve(flags.out),
        sizesMib: flags.ramMib,
        qemuBinary: findQemuBinary({ chosen: flags.qemu }),
        guestFiles: guestFilesIn(path.resolve(flags.guest)),
        onMessage: (text) => output.message(text),
        signal: interruptible(
          output,
          'Interrupted; ending the guests. Press Ctrl-C again to exit immediately.',
        ).signal,
        ...flags,
        against: flags.against && path.resolve(flags.against),
      });
      output.result(report, describe(report, flags.out));
    });
}

function describe(report: ResumeReport, out: string): string {
  const { ratios, certainties = {}, missing, comparisons = [] } = report;
  const rows = Object.entries(ratios).map(([name, value]) => {
    const certainty = certainties[name];
    const interval = certainty === undefined ? '' : ` (${intervalText(certainty)})`;
    return `${name.padEnd(40)} ${Number(value.toPrecision(3))}${interval}`;
  });
  const compared = comparisons.map(({ scenario, cache, ramMib, figure, ratio, certainty }) => {
    const place = `${scenario}, ${cache}, ${ramMib} MiB: ${figure}`;
    const interval = certainty === undefined ? 'one round' : intervalText(certainty);
    return `${place.padEnd(48)} ${ratio.median.toFixed(3)} (${interval})`;
  });
  const absent = Object.keys(missing).length;
  return [
    ...rows,
    ...(compared.length === 0 ? [] : ['This build through the other one:', ...compared]),
    ...(absent === 0 ? [] : [`${absent} ratios are missing; the report says why.`]),
    `${path.join(out, 'report.html')}`,
  ].join('\n');
}

function numberOf(name: string, least: number): (text: string) => number {
  return (text) => wholeNumber(name, text, least);
}

/** @throws VmckptError USAGE */
function wholeNumber(name: string, text: string, least: number): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isInteger(value) && value >= least) return value;
  throw new VmckptError('USAGE', `${name} ${text}: a whole number of at least ${least} expected`);
}
