/** `vmckpt export NAME[@GEN] FILE` */
import { isatty } from 'node:tty';
import { Argument, type Command } from 'commander';
import { VmckptError } from '../errors.js';
import { exportMachine } from '../interchange/export.js';
import { standardOutput } from '../interchange/files.js';
import { formatBytes, formatMs } from '../util/units.js';
import { contextOf, interruptible, option, referenceArgument, verb } from './verb.js';

interface ExportFlags {
  readonly overwrite?: true;
}

export function exportCommand(): Command {
  return verb('export', 'Write a checkpoint as a plain QEMU stream, which -incoming "exec:cat FILE" loads.', [
    'failed',
    'usage',
    'notFound',
    'locked',
    'notPermitted',
    'damaged',
    'incompatible',
    'interrupted',
  ])
    .addArgument(referenceArgument('<reference>', 'NAME or NAME@GENERATION'))
    .addArgument(new Argument('<file>', 'file to write, - for standard output'))
    .addOption(option('--overwrite', 'replace the file if it exists'))
    .action(async (reference: string, file: string, flags: ExportFlags, command: Command) => {
      const { output, storeDir } = contextOf(command);
      if (file === '-') requireFreeOutput(output.json);
      const report = await exportMachine({
        storeDir,
        reference,
        target: file === '-' ? { stream: standardOutput() } : { file, overwrite: flags.overwrite === true },
        onProgress: (done, total) => output.progress(done, total),
        signal: interruptible(
          output,
          'Interrupted; removing the unfinished file. Press Ctrl-C again to exit immediately.',
        ).signal,
      });
      const { name, generation, fileBytes, totalMs } = report;
      const text = `Exported ${name}@${generation}: ${formatBytes(fileBytes)} in ${formatMs(totalMs)}.`;
      if (file === '-') output.message(text);
      else output.result(report, text);
    });
}

/** Nothing but the stream goes to standard output. @throws VmckptError USAGE */
function requireFreeOutput(json: boolean): void {
  if (json)
    throw new VmckptError('USAGE', 'standard output carries the stream, so --json cannot go there', {
      hint: 'Name a file, or omit --json.',
    });
  if (isatty(1))
    throw new VmckptError('USAGE', 'the stream is not text, but standard output is a terminal', {
      hint: 'Name a file, or redirect the output into a pipe.',
    });
}
