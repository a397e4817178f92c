/** `vmckpt bench resume --out DIR`, `vmckpt bench save --out DIR` */
import os from 'node:os';
import path from 'node:path';
import { Argument, InvalidArgumentError, type Command } from 'commander';
import { intervalText } from '../bench/confidence.js';
import type { Accelerator } from '../bench/guest.js';
import type { ResumeReport } from '../bench/resume-report.js';
import type { BenchResumeOptions } from '../bench/resume.js';
import type { BenchSaveOptions } from '../bench/saves/bench-save.js';
import type { SaveBenchReport } from '../bench/saves/save-report.js';
import { LOAD_NAMES, type LoadName } from '../bench/saves/scenarios.js';
import { SAVERS } from '../bench/saves/savers.js';
import { SCENARIOS } from '../bench/scenarios.js';
import { VmckptError } from '../errors.js';
import { findQemuBinary } from '../qemu/launch.js';
import { PACKAGE_ROOT } from '../util/package-paths.js';
import type { Output } from './output.js';
import { contextOf, interruptible, option, verb } from './verb.js';

/** A load above this share of the processors falsifies the measurements. */
const QUIET_LOAD = 0.5;
const MIN_RAM_MIB = 256;

interface BenchFlags {
  readonly out: string;
  readonly ramMib: readonly number[];
  readonly rounds: number;
  readonly scenarios?: readonly string[];
  readonly seed: number;
  readonly against?: string;
  readonly observeMs: number;
  readonly loads: readonly LoadName[];
  readonly saves: number;
  readonly captureS: number;
  readonly accel: Accelerator;
  readonly qemu?: string;
  readonly guest: string;
}

/** Options that only one experiment has. */
const OWN_OPTIONS = {
  resume: ['observeMs', 'against'],
  save: ['loads', 'saves', 'captureS'],
} as const;
type Experiment = keyof typeof OWN_OPTIONS;
const EXPERIMENTS = Object.keys(OWN_OPTIONS) as Experiment[];

export function benchCommand(): Command {
  const command = verb(
    'bench',
    'Measure vmckpt with a real guest, compared with stock QEMU.\n\n' +
      'resume: how quickly the guest serves its clients again. save: what a save of the running guest takes, and what\n' +
      'captures at an interval cost its clients.',
    ['failed', 'usage', 'notFound', 'notPermitted', 'incompatible', 'interrupted'],
  )
    .addArgument(new Argument('<experiment>', 'what to measure').choices(EXPERIMENTS))
    .addOption(
      option(
        '--out <dir>',
        'where report.json and report.html go, on the disk to measure',
      ).makeOptionMandatory(),
    )
    .addOption(
      option('--ram-mib <sizes>', 'sizes of the guest, separated by commas')
        .argParser((text) => text.split(',').map((each) => wholeNumber('--ram-mib', each, MIN_RAM_MIB)))
        .default([1024, 4096], '1024,4096'),
    )
    .addOption(
      option('--rounds <n>', 'number of rounds; fewer than 6 never give 95 % confidence')
        .argParser(numberOf('--rounds', 1))
        .default(6),
    )
    .addOption(
      option('--scenarios <names>', `some of ${namesOf(SCENARIOS)}; of save: ${namesOf(SAVERS)}`).argParser(
        (text) => text.split(','),
      ),
    )
    .addOption(
      option('--seed <n>', 'seed that repeats the order of the measurements')
        .argParser(numberOf('--seed', 0))
        .default(1),
    )
    .addOption(option('--accel <name>', 'how QEMU runs the guest').choices(['tcg', 'kvm']).default('tcg'))
    .addOption(option('--qemu <binary>', 'the QEMU binary to use'))
    .addOption(
      option('--guest <dir>', 'the guest that scripts/setup.sh builds').default(
        path.join(PACKAGE_ROOT, '.cache', 'guest'),
        '.cache/guest of the checkout',
      ),
    );
  return addOwnOptions(command).action(
    async (experiment: Experiment, flags: BenchFlags, running: Command) => {
      refuseOthers(experiment, running);
      const { output } = contextOf(running);
      const load = os.loadavg()[0]!;
      if (load > QUIET_LOAD * os.availableParallelism())
        output.message(`The load of this machine is ${load.toFixed(1)}: the figures will not be reliable.`);
      const common = await commonOptions(flags, output);
      const report = await (experiment === 'resume' ? resume(common, flags) : save(common, flags));
      output.result(report, describe(report, flags.out));
    },
  );
}

function addOwnOptions(command: Command): Command {
  return command
    .addOption(
      option('--observe-ms <n>', 'of resume: how long a guest is watched once it runs')
        .argParser(numberOf('--observe-ms', 1000))
        .default(10_000),
    )
    .addOption(
      option('--against <checkout>', 'of resume: another build of vmckpt to measure in turns with this one'),
    )
    .addOption(
      option('--loads <names>', `of save: what the guest does, some of ${LOAD_NAMES.join(', ')}`)
        .argParser((text) => text.split(',').map(loadNamed))
        .default(LOAD_NAMES, 'all'),
    )
    .addOption(
      option('--saves <n>', 'of save: how many saves a chain has')
        .argParser(numberOf('--saves', 2))
        .default(10),
    )
    .addOption(
      option('--capture-s <n>', 'of save: for how many seconds captures are taken beside clients')
        .argParser(numberOf('--capture-s', 2))
        .default(120),
    );
}

async function commonOptions(flags: BenchFlags, output: Output): Promise<Common> {
  // Only here: the other verbs need not load it.
  const { guestFilesIn } = await import('../bench/prepared-guest.js');
  const { signal } = interruptible(
    output,
    'Interrupted; ending the guests. Press Ctrl-C again to exit immediately.',
  );
  return {
    outDir: path.resolve(flags.out),
    sizesMib: flags.ramMib,
    rounds: flags.rounds,
    seed: flags.seed,
    accel: flags.accel,
    qemuBinary: findQemuBinary({ chosen: flags.qemu }),
    guestFiles: guestFilesIn(path.resolve(flags.guest)),
    onMessage: (text) => output.message(text),
    signal,
  };
}

type Common = Pick<BenchResumeOptions, keyof BenchResumeOptions & keyof BenchSaveOptions>;

async function resume(common: Common, flags: BenchFlags): Promise<ResumeReport> {
  const { benchResume } = await import('../bench/resume.js');
  const { observeMs, scenarios = SCENARIOS.map(({ name }) => name) } = flags;
  const against = flags.against && path.resolve(flags.against);
  return benchResume({ ...common, scenarios, observeMs, against });
}

async function save(common: Common, flags: BenchFlags): Promise<SaveBenchReport> {
  const { benchSave } = await import('../bench/saves/bench-save.js');
  const { loads, saves, captureS, scenarios: savers } = flags;
  return benchSave({ ...common, loads, saves, captureS, savers });
}

/** @throws VmckptError USAGE */
function refuseOthers(experiment: Experiment, command: Command): void {
  const other = EXPERIMENTS.filter((name) => name !== experiment).flatMap((name) => OWN_OPTIONS[name]);
  const given = command.options.find(
    (each) =>
      (other as readonly string[]).includes(each.attributeName()) &&
      command.getOptionValueSource(each.attributeName()) === 'cli',
  );
  if (given === undefined) return;
  throw new VmckptError('USAGE', `bench ${experiment} has no option ${given.long}`, {
    hint: 'vmckpt help bench says which experiment has it.',
  });
}

function namesOf(all: readonly { readonly name: string }[]): string {
  return all.map(({ name }) => name).join(', ');
}

function loadNamed(text: string): LoadName {
  const found = LOAD_NAMES.find((name) => name === text);
  if (found !== undefined) return found;
  throw new InvalidArgumentError(`expected some of ${LOAD_NAMES.join(', ')}.`);
}

function describe(report: ResumeReport | SaveBenchReport, out: string): string {
  const { ratios, certainties = {}, missing } = report;
  const rows = Object.entries(ratios).map(([name, value]) => {
    const certainty = certainties[name];
    const interval = certainty === undefined ? '' : ` (${intervalText(certainty)})`;
    return `${name.padEnd(40)} ${Number(value.toPrecision(3))}${interval}`;
  });
  const compared = 'comparisons' in report ? describeComparisons(report) : [];
  const absent = Object.keys(missing).length;
  return [
    ...rows,
    ...compared,
    ...(absent === 0 ? [] : [`${absent} ratios are missing; the report says why.`]),
    `${path.join(out, 'report.html')}`,
  ].join('\n');
}

function describeComparisons({ comparisons = [] }: ResumeReport): string[] {
  if (comparisons.length === 0) return [];
  const rows = comparisons.map(({ scenario, cache, ramMib, figure, ratio, certainty }) => {
    const place = `${scenario}, ${cache}, ${ramMib} MiB: ${figure}`;
    const interval = certainty === undefined ? 'one round' : intervalText(certainty);
    return `${place.padEnd(48)} ${ratio.median.toFixed(3)} (${interval})`;
  });
  return ['This build through the other one:', ...rows];
}

function numberOf(name: string, least: number): (text: string) => number {
  return (text) => wholeNumber(name, text, least);
}

/** @throws VmckptError USAGE */
function wholeNumber(name: string, text: string, least: number): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isInteger(value) && value >= least) return value;
  throw new VmckptError('USAGE', `${name} ${text}: expected a whole number of at least ${least}`);
}
