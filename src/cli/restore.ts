/** `vmckpt restore NAME[@GEN] [-- QEMU ARGS…]` */
import { Argument, type Command } from 'commander';
import type { PathWish } from '../restore/direct-choice.js';
import { recover } from '../restore/recover.js';
import { restore, type RestoreReport } from '../restore/restore.js';
import { formatBytes, formatMs } from '../util/units.js';
import { contextOf, interruptible, option, verb } from './verb.js';

interface RestoreFlags {
  readonly mode: 'lazy' | 'eager';
  readonly path: PathWish;
  readonly detach?: true;
  readonly run?: true;
  readonly resume?: true;
  readonly qemu?: string;
  readonly trustCommandLine?: true;
}

export function restoreCommand(): Command {
  return verb('restore', 'Start a checkpoint again, the newest generation by default.', [
    'failed',
    'usage',
    'notFound',
    'locked',
    'notPermitted',
    'damaged',
    'incompatible',
    'interrupted',
  ])
    .usage('[options] <name[@generation]> [-- QEMU ARGS…]')
    .addArgument(new Argument('<reference>', 'NAME or NAME@GENERATION'))
    .addArgument(
      new Argument('[qemu-args...]', 'a QEMU command line instead of the saved one (without the binary)'),
    )
    .addOption(
      option('--mode <mode>', 'lazy: run at once, memory follows; eager: all memory, then run')
        .choices(['lazy', 'eager'])
        .default('lazy'),
    )
    .addOption(
      option(
        '--path <path>',
        "direct: into QEMU's memory; stream: through QEMU; auto: direct where permitted",
      )
        .choices(['auto', 'direct', 'stream'])
        .default('auto'),
    )
    .addOption(option('--detach', 'return when the VM runs; a process of its own goes on with its memory'))
    .addOption(option('--run', 'let a VM run that was saved while paused'))
    .addOption(option('--resume', 'take over the memory transfer of a VM whose serving process has died'))
    .addOption(option('--qemu <binary>', 'the QEMU binary to use'))
    .addOption(option('--trust-command-line', 'allow saved options that run programs or open any file'))
    .action(async (reference: string, qemuArgs: string[], flags: RestoreFlags, command: Command) => {
      const { output, storeDir } = contextOf(command);
      const common = {
        onProgress: (done: number, total: number) => output.progress(done, total),
        onMessage: (text: string) => output.message(text),
        signal: interruptible(output, 'Interrupted. Once more to leave at once.'),
      };
      const report =
        flags.resume === true
          ? await recover({ name: reference, ...common })
          : await restore({
              storeDir,
              reference,
              mode: flags.mode,
              path: flags.path,
              detach: flags.detach === true,
              run: flags.run === true,
              qemuBinary: flags.qemu,
              qemuArgs: qemuArgs.length > 0 ? qemuArgs : undefined,
              trustCommandLine: flags.trustCommandLine === true,
              ...common,
            });
      output.result(report, describe(report));
    });
}

function describe(report: RestoreReport): string {
  const { name, generation, resumeMs, completeMs, ramBytes, qmpSocket } = report;
  const runs = resumeMs === null ? 'is paused' : `ran again after ${formatMs(resumeMs)}`;
  const memory =
    completeMs === null
      ? 'memory follows'
      : `all ${formatBytes(ramBytes)} in place after ${formatMs(completeMs)}`;
  return `${name}@${generation} ${runs}; ${memory}.\nQMP: ${qmpSocket}`;
}
