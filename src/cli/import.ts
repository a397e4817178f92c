/** `vmckpt import FILE NAME [-- QEMU ARGS…]` */
import { Argument, type Command } from 'commander';
import { VmckptError } from '../errors.js';
import { openInput } from '../interchange/files.js';
import { importMachine } from '../interchange/import.js';
import { formatBytes, formatMs } from '../util/units.js';
import { parseLevel } from './save.js';
import { contextOf, interruptible, option, verb } from './verb.js';

interface ImportFlags {
  readonly level: number | 'none';
}

export function importCommand(): Command {
  return verb('import', 'Make a new generation of NAME from a plain QEMU migration stream.', [
    'failed',
    'usage',
    'locked',
    'notPermitted',
    'damaged',
    'incompatible',
    'interrupted',
  ])
    .usage('[options] <file> <name> [-- QEMU ARGS…]')
    .addArgument(new Argument('<file>', 'file or pipe with the stream, - for standard input'))
    .addArgument(new Argument('<name>', 'name of the checkpoint'))
    .addArgument(
      new Argument('[qemu-args...]', 'the command line to restore it with (without the binary, -incoming)'),
    )
    .addOption(option('--level <n>', 'zstd level 1–19, or none').argParser(parseLevel).default(1))
    .action(async (file: string, name: string, qemuArgs: string[], flags: ImportFlags, command: Command) => {
      const { output, storeDir } = contextOf(command);
      const report = await importMachine({
        storeDir,
        name,
        input: file === '-' ? standardInput() : await openInput(file),
        inputName: file,
        level: flags.level,
        commandLine: qemuArgs,
        onProgress: (done, total) => output.progress(done, total),
        onMessage: (text) => output.message(text),
        signal: interruptible(output, 'Interrupted: nothing is kept. Once more to leave at once.'),
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
  throw new VmckptError('USAGE', 'a migration stream expected on standard input, but it is a terminal', {
    hint: 'for example: ssh HOST cat vm.stream | vmckpt import - NAME',
  });
}
