/** `vmckpt import FILE NAME [-- QEMU ARGS…]` */
import { Argument, type Command } from 'commander';
import { VmckptError } from '../errors.js';
import { openInput } from '../interchange/files.js';
import { importMemory } from '../interchange/import-memory.js';
import { importMachine } from '../interchange/import.js';
import { formatBytes, formatMs } from '../util/units.js';
import { parseLevel } from './save.js';
import { contextOf, interruptible, nameArgument, option, verb } from './verb.js';

interface ImportFlags {
  readonly level: number | 'none';
  readonly rawMemory?: true;
}

export function importCommand(): Command {
  return verb(
    'import',
    'Make a new generation of NAME from a plain QEMU migration stream, or from bare memory.',
    ['failed', 'usage', 'notFound', 'locked', 'notPermitted', 'damaged', 'incompatible', 'interrupted'],
  )
    .usage('[options] <file> <name> [-- QEMU ARGS…]')
    .addArgument(new Argument('<file>', 'file or pipe with the stream, - for standard input'))
    .addArgument(nameArgument('<name>', 'name of the checkpoint'))
    .addArgument(
      new Argument('[qemu-args...]', 'the command line to restore it with (without the binary, -incoming)'),
    )
    .addOption(
      option('--raw-memory', "the file is a VM's memory byte for byte (Firecracker's, for vmckpt uffd)"),
    )
    .addOption(option('--level <n>', 'zstd level 1–19, or none').argParser(parseLevel).default(1))
    .action(async (file: string, name: string, qemuArgs: string[], flags: ImportFlags, command: Command) => {
      const { output, storeDir } = contextOf(command);
      if (flags.rawMemory === true) requireMemoryAlone(file, qemuArgs);
      const { signal, tooLate } = interruptible(
        output,
        'Interrupted; nothing is kept. Press Ctrl-C again to exit immediately.',
      );
      const common = {
        storeDir,
        name,
        level: flags.level,
        onProgress: (done: number, total: number) => output.progress(done, total),
        signal,
        onCommit: tooLate,
      };
      const report =
        flags.rawMemory === true
          ? await importMemory({ ...common, file })
          : await importMachine({
              ...common,
              input: file === '-' ? standardInput() : await openInput(file),
              inputName: file,
              commandLine: qemuArgs,
              onMessage: (text) => output.message(text),
            });
      const { generation, nonZeroBytes, storedBytes, totalMs } = report;
      output.result(
        report,
        `Imported ${name}@${generation}: ${formatBytes(nonZeroBytes)} of memory in ` +
          `${formatBytes(storedBytes)}, done in ${formatMs(totalMs)}.`,
      );
    });
}

function standardInput(): NodeJS.ReadStream {
  if (!process.stdin.isTTY) return process.stdin;
  throw new VmckptError('USAGE', 'standard input is a terminal, expected a migration stream', {
    hint: 'For example: ssh HOST cat vm.stream | vmckpt import - NAME',
  });
}

/** @throws VmckptError USAGE */
function requireMemoryAlone(file: string, qemuArgs: readonly string[]): void {
  const hint = 'Import it with: vmckpt import --raw-memory FILE NAME';
  if (file === '-')
    throw new VmckptError('USAGE', '--raw-memory needs a file, but standard input is given', { hint });
  if (qemuArgs.length > 0)
    throw new VmckptError('USAGE', 'bare memory has no QEMU command line, but one was given', { hint });
}
