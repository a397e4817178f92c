/** `vmckpt learn NAME[@GEN]` */
import type { Command } from 'commander';
import { isIsolated, runIsolated } from '../learn/isolation.js';
import { learn, type LearnReport, type LearnRun } from '../learn/learn.js';
import { contextOf, interruptible, numberIn, option, referenceArgument, verb } from './verb.js';

interface LearnFlags {
  readonly probe?: string;
  readonly runs: number;
  readonly seconds: number;
  readonly qemu?: string;
  readonly trustCommandLine?: true;
}

const DEFAULT_RUNS = 3;
const MAX_RUNS = 100;
const DEFAULT_SECONDS = 5;
const MAX_SECONDS = 86_400;

export function learnCommand(): Command {
  return verb(
    'learn',
    'Run a checkpoint a few times in an isolated network, to learn which memory a restore should load first.',
    ['failed', 'usage', 'notFound', 'locked', 'notPermitted', 'damaged', 'incompatible', 'interrupted'],
  )
    .addArgument(referenceArgument('<reference>', 'NAME or NAME@GENERATION'))
    .addOption(
      option('--probe <command>', 'a shell command that does what the clients of the VM do, and ends'),
    )
    .addOption(
      option(
        '--runs <n>',
        'number of runs: the first without a prediction, with 3 or more the second page by page, the others with what was learned',
      )
        .argParser((text) => Math.floor(numberIn(text, { min: 1, max: MAX_RUNS })))
        .default(DEFAULT_RUNS),
    )
    .addOption(
      option('--seconds <n>', 'how long a VM without --probe runs')
        .argParser((text) => numberIn(text, { min: 0, max: MAX_SECONDS }))
        .default(DEFAULT_SECONDS),
    )
    .addOption(option('--qemu <binary>', 'the QEMU binary to use'))
    .addOption(
      option(
        '--trust-command-line',
        'run the command line of a checkpoint that another user made: it can run programs and open files',
      ),
    )
    .action(async (reference: string, flags: LearnFlags, command: Command) => {
      if (!isIsolated()) {
        process.exitCode = await runIsolated();
        return;
      }
      const { output, storeDir } = contextOf(command);
      const idle = `No --probe: an idle guest is watched for ${flags.seconds} s each time.`;
      const report = await learn({
        storeDir,
        reference,
        runs: flags.runs,
        probe: flags.probe,
        seconds: flags.seconds,
        qemuBinary: flags.qemu,
        trustCommandLine: flags.trustCommandLine === true,
        onBegin: () => flags.probe === undefined && output.message(idle),
        onRun: (run) => output.message(describeRun(run)),
        onWarning: (text) => output.message(text),
        onMessage: (text) => output.detail(text),
        signal: interruptible(
          output,
          'Interrupted; ending the VM. What was learned is kept. Press Ctrl-C again to exit immediately.',
        ).signal,
      });
      output.result(report, describe(report));
    });
}

function describeRun({ run, mode, demandFaults, precision, recall }: LearnRun): string {
  const percent = (share: number | null) => (share === null ? 'unknown' : `${Math.round(share * 100)} %`);
  const quality = {
    lazy: 'without a prediction',
    exact: 'every page by itself',
    prefetch: `precision ${percent(precision)}, recall ${percent(recall)}`,
  }[mode];
  return `Run ${run}: ${demandFaults} demand faults, ${quality}`;
}

function describe({ name, generation, runs, unitCount }: LearnReport): string {
  const [first, last] = [runs[0]!, runs.at(-1)!];
  const faults =
    runs.length === 1 ? `${first.demandFaults}` : `${first.demandFaults} before, ${last.demandFaults} now`;
  return `${name}@${generation}: ${unitCount} units are predicted; demand faults: ${faults}.`;
}
