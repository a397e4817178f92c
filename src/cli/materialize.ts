/** `vmckpt materialize NAME[@GEN]` */
import type { Command } from 'commander';
import { materialize } from '../interchange/materialize.js';
import { formatBytes, formatMs } from '../util/units.js';
import { contextOf, interruptible, referenceArgument, verb } from './verb.js';

export function materializeCommand(): Command {
  return verb('materialize', 'Make the raw memory file that restore --mode map needs.', [
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
    .action(async (reference: string, _flags: object, command: Command) => {
      const { output, storeDir } = contextOf(command);
      const report = await materialize({
        storeDir,
        reference,
        onProgress: (done, total) => output.progress(done, total),
        onMessage: (text) => output.message(text),
        signal: interruptible(
          output,
          'Interrupted; removing the unfinished file. Press Ctrl-C again to exit immediately.',
        ).signal,
      });
      const { name, generation, made, sizeBytes, storedBytes, totalMs } = report;
      const what = `raw memory file: ${formatBytes(sizeBytes)}, ${formatBytes(storedBytes)} of it on the disk`;
      output.result(
        report,
        made
          ? `${name}@${generation} has a ${what}, made in ${formatMs(totalMs)}.`
          : `${name}@${generation} has its ${what}, already.`,
      );
    });
}
