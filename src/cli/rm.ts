/** `vmckpt rm NAME@GEN` */
import type { Command } from 'commander';
import { onEveryReplica } from '../page-server/replicas.js';
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
      const context = contextOf(command);
      const { output, replicas } = context;
      if (replicas === undefined) await removeGeneration(context.storeDir, reference);
      else await onEveryReplica(replicas, (store) => store.remove(reference));
      output.result({ removed: reference }, `Removed ${reference}.`);
    });
}
