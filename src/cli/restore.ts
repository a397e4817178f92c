/** `vmckpt restore NAME[@GEN] [-- QEMU ARGS…]` */
import { Argument, InvalidArgumentError, type Command } from 'commander';
import type { PathWish } from '../restore/memory-path.js';
import { EXIT_CODES, VmckptError } from '../errors.js';
import { MAX_CLONES, restoreClones, type ClonesReport } from '../restore/clones.js';
import { takeOver } from '../restore/take-over.js';
import type { RemoteSource } from '../restore/find-generation.js';
import { restore } from '../restore/restore.js';
import type { RestoreReport } from '../restore/report.js';
import { RESTORE_MODES, type RestoreMode } from '../vms/records.js';
import { DEFAULT_EXPLORE, DEFAULT_PREFETCH_BUDGET_MS, MAX_EXPLORE } from '../working-set/plan.js';
import { formatBytes, formatMs } from '../util/units.js';
import { cacheDir } from '../util/user-folders.js';
import type { Output } from './output.js';
import { printable } from './text.js';
import {
  checkedVmName,
  contextOf,
  interruptible,
  numberIn,
  option,
  QEMU_ARGS_HINT,
  referenceArgument,
  verb,
  type VerbContext,
} from './verb.js';

const MAX_BUDGET_MS = 10_000;

interface RestoreFlags {
  readonly mode: RestoreMode;
  readonly prefetchBudgetMs: number;
  readonly explore: number;
  readonly path: PathWish;
  readonly detach?: true;
  readonly run?: true;
  readonly as?: string;
  readonly count?: number;
  readonly resume?: true;
  readonly force?: true;
  readonly disksAsSaved?: true;
  readonly qemu?: string;
  readonly trustCommandLine?: true;
}

export function restoreCommand(): Command {
  const command = verb('restore', 'Restore a VM from a checkpoint, by default from its newest generation.', [
    'failed',
    'usage',
    'partial',
    'notFound',
    'locked',
    'notPermitted',
    'damaged',
    'incompatible',
    'interrupted',
  ])
    .usage('[options] <name[@generation]> [-- QEMU ARGS…]')
    .addArgument(referenceArgument('<reference>', 'NAME or NAME@GENERATION'))
    .addArgument(
      new Argument('[qemu-args...]', 'a QEMU command line instead of the saved one (without the binary)'),
    )
    .addOption(
      option('--detach', 'return when the VM runs; a background process loads the rest of its memory'),
    )
    .addOption(option('--run', 'start a VM that was saved while paused'))
    .addOption(
      option(
        '--resume',
        'take over the memory transfer of a VM whose serving process has died; with no other option',
      ),
    )
    .addOption(option('--qemu <binary>', 'the QEMU binary to use'));
  return withLoneResume(withMemoryOptions(withCloneOptions(withAssurances(command)))).action(
    async (reference: string, qemuArgs: string[], flags: RestoreFlags, command: Command) => {
      const context = contextOf(command);
      const { output } = context;
      refuseMeaningless(flags, qemuArgs);
      const common = {
        onProgress: (done: number, total: number) => output.progress(done, total),
        onMessage: (text: string) => output.message(text),
        signal: endedByInterrupt(output),
      };
      if (flags.resume === true) {
        const report = await takeOver({ name: reference, ...common });
        return output.result(report, describeTakeOver(report));
      }
      const wishes = {
        ...sourceOf(context),
        reference,
        mode: flags.mode,
        mayFallBack: command.getOptionValueSource('mode') === 'default',
        path: flags.path,
        prefetch: { budgetMs: flags.prefetchBudgetMs, explore: flags.explore / 100 },
        detach: flags.detach === true,
        ...(flags.force === true && { memoryRoom: 'forced' as const }),
        run: flags.run === true,
        disksAsSaved: flags.disksAsSaved === true,
        qemuBinary: flags.qemu,
        qemuArgs: qemuArgs.length > 0 ? qemuArgs : undefined,
        trustCommandLine: flags.trustCommandLine === true,
        ...common,
      };
      if (flags.count !== undefined) {
        const report = await restoreClones({ ...wishes, count: flags.count, baseName: flags.as });
        if (report.failed.length > 0) process.exitCode = EXIT_CODES.partial;
        return output.result(report, describeClones(report));
      }
      const own = { vmName: flags.as, identity: 'clone' } as const;
      const report = await restore({ ...wishes, ...(flags.as !== undefined && own) });
      output.result(report, describe(report));
    },
  );
}

/** Where the checkpoint is: in a folder, or elsewhere. */
function sourceOf(context: VerbContext): { storeDir: string; remote?: RemoteSource } {
  const { replicas } = context;
  if (replicas === undefined) return { storeDir: context.storeDir };
  const { addresses, connecting } = replicas;
  return { storeDir: '', remote: { addresses: [...addresses], ...connecting, cacheDir: cacheDir() } };
}

/** @throws VmckptError USAGE */
function refuseMeaningless({ mode, path, resume }: RestoreFlags, qemuArgs: readonly string[]): void {
  requireDashes(qemuArgs);
  if (resume === true && qemuArgs.length > 0)
    throw new VmckptError('USAGE', `--resume takes no command line, and "${qemuArgs.join(' ')}" was given`, {
      hint: 'It takes over the memory transfer of a VM that runs already. To start another VM, leave it out.',
    });
  if (mode === 'map' && path !== 'auto')
    throw new VmckptError('USAGE', '--path has no meaning with --mode map: memory is not transferred');
}

/** QEMU would take an extra word for a disk image, and the saved command line would be ignored. */
function requireDashes(qemuArgs: readonly string[]): void {
  const at = process.argv.indexOf('--');
  const wordsBehind = at === -1 ? 0 : process.argv.length - at - 1;
  if (qemuArgs.length <= wordsBehind) return;
  throw new VmckptError('USAGE', `expected one name, but "${qemuArgs[0]}" is given as well`, {
    hint: QEMU_ARGS_HINT,
  });
}

function endedByInterrupt(output: Output): AbortSignal {
  return interruptible(output, 'Interrupted. Press Ctrl-C again to exit immediately.').signal;
}

/** The VM that --resume takes over runs already, as it was begun. */
function withLoneResume(command: Command): Command {
  for (const each of command.options) if (each.attributeName() !== 'resume') each.conflicts('resume');
  return command;
}

/** Options with which the user vouches for something. */
function withAssurances(command: Command): Command {
  return command
    .addOption(option('--force', 'restore even if the host seems to have too little memory'))
    .addOption(
      option('--disks-as-saved', 'the disks are as they were at the save, because you have put them back'),
    )
    .addOption(
      option(
        '--trust-command-line',
        'run the command line of a checkpoint that another user made: it can run programs and open files',
      ),
    );
}

/** Options for VMs that run next to the original. */
function withCloneOptions(command: Command): Command {
  return command
    .addOption(
      option(
        '--as <vm-name>',
        'start it next to the original and its clones, with its own sockets, ports and ids',
      ).argParser(checkedVmName),
    )
    .addOption(
      option('--count <n>', 'start n clones, NAME.1 to NAME.n; with --as, VMNAME.1 to VMNAME.n').argParser(
        (text) => wholeNumberIn(text, { min: 1, max: MAX_CLONES }),
      ),
    );
}

/** Options for how memory is loaded. */
function withMemoryOptions(command: Command): Command {
  return command
    .addOption(
      option(
        '--mode <mode>',
        'prefetch: run at once, and load first what earlier restores touched; lazy: the same without a prediction; eager: load all memory, then run; map: map the file that materialize makes',
      )
        .choices(RESTORE_MODES)
        .default('prefetch'),
    )
    .addOption(
      option('--prefetch-budget-ms <ms>', 'time for loading predicted memory before the VM runs')
        .argParser((text) => numberIn(text, { min: 0, max: MAX_BUDGET_MS }))
        .default(DEFAULT_PREFETCH_BUDGET_MS),
    )
    .addOption(
      option(
        '--explore <percent>',
        'share of the predicted memory to leave out, to see whether the VM needs it',
      )
        .argParser((text) => numberIn(text, { min: 0, max: 100 * MAX_EXPLORE }))
        .default(100 * DEFAULT_EXPLORE),
    )
    .addOption(
      option(
        '--path <path>',
        "direct: write into QEMU's memory; stream: send through QEMU; auto: direct where permitted",
      )
        .choices(['auto', 'direct', 'stream'])
        .default('auto'),
    );
}

function wholeNumberIn(text: string, range: { readonly min: number; readonly max: number }): number {
  const number = numberIn(text, range);
  if (Number.isInteger(number)) return number;
  throw new InvalidArgumentError('expected a whole number.');
}

function describeClones({ clones, failed }: ClonesReport): string {
  const failures = failed.map(({ vmName, message }) => `${vmName} failed to start: ${printable(message)}.`);
  return [...clones.map(describe), ...failures].join('\n');
}

function memoryOf({ mode, completeMs, ramBytes }: RestoreReport): string {
  if (mode === 'map') return 'its memory is mapped from the raw memory file';
  const all = `all ${formatBytes(ramBytes)} in place`;
  if (completeMs !== null) return `${all} after ${formatMs(completeMs)}`;
  return mode === 'eager' ? all : 'memory follows';
}

function describeTakeOver({ name, generation, vmName, ramBytes, qmpSocket }: RestoreReport): string {
  const as = vmName === name ? '' : ` as ${vmName}`;
  return `${name}@${generation}${as} was taken over; all ${formatBytes(ramBytes)} in place.\nQMP: ${qmpSocket}`;
}

function describe(report: RestoreReport): string {
  const { name, generation, vmName, resumeMs, qmpSocket, moved } = report;
  const as = vmName === name ? '' : ` as ${vmName}`;
  const runs = resumeMs === null ? 'is paused' : `ran again after ${formatMs(resumeMs)}`;
  const lines = [
    `${name}@${generation}${as} ${runs}; ${memoryOf(report)}.`,
    `QMP: ${qmpSocket}`,
    ...moved.map(({ what, option, from, to }) => `${option}: ${what} ${printable(from)} is ${to}`),
  ];
  return lines.join('\n');
}
