/** `vmckpt rm NAME@GEN` */
import type { Command } from 'commander';
import { removeGeneration } from '../vms/needs-generation.js';
import { contextOf, referenceArgument, verb } from './verb.js';

export function rmCommand(): Command {
  return verb('rm', 'Delete one generation of a checkpoint.', [
    'failed',
    'usage',
    'notFound',
    'locked',
    'notPermitted',
  ])
    .addArgument(referenceArgument('<reference>', 'NAME@GENERATION'))
    .action(async (reference: string, _flags: object, command: Command) => {
      const { output, storeDir } = contextOf(command);
      await removeGeneration(storeDir, reference);
      output.result({ removed: reference }, `Removed ${reference}.`);
    });
}
