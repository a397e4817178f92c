/** `vmckpt pull NAME[@GEN] --from SOURCE[,SOURCE…]` */
import type { Command } from 'commander';
import { pull, type PullReport } from '../page-server/pull.js';
import { formatBytes, formatMs } from '../util/units.js';
import {
  addCacheOptions,
  addSourceTimeout,
  cacheOf,
  parseSources,
  timeoutMsOf,
  type CacheFlags,
  type TimeoutFlags,
} from './remote-options.js';
import { checkedName, contextOf, interruptible, option, referenceArgument, verb } from './verb.js';

interface PullFlags extends CacheFlags, TimeoutFlags {
  readonly from: readonly string[];
  readonly into?: string;
}

export function pullCommand(): Command {
  const command = verb(
    'pull',
    'Copy a generation from another store into this one, with its number.\n\n' +
      'Only what this store lacks travels. An interrupted pull goes on where it ended.',
    ['failed', 'usage', 'notFound', 'locked', 'notPermitted', 'damaged', 'incompatible', 'interrupted'],
  )
    .addArgument(referenceArgument('<reference>', 'NAME or NAME@GENERATION'))
    .addOption(
      option(
        '--from <sources>',
        'stores that have it, with commas between them: folders, tls://HOST:PORT, unix:PATH',
      )
        .argParser(parseSources)
        .makeOptionMandatory(),
    )
    .addOption(option('--into <name>', 'its name in this store (default: as there)').argParser(checkedName));
  addSourceTimeout(addCacheOptions(command), 'give up');
  return command.action(async (reference: string, flags: PullFlags, running: Command) => {
    const { output, storeDir, connecting } = contextOf(running);
    const report = await pull({
      ...{
        storeDir,
        reference,
        sources: flags.from,
        into: flags.into,
        sourceTimeoutMs: timeoutMsOf(flags),
        ...connecting,
      },
      ...cacheOf(flags),
      onProgress: (done, total) => output.progress(done, total),
      onMessage: (text) => output.message(text),
      signal: interruptible(
        output,
        'Interrupted; what has arrived stays in the cache. Press Ctrl-C again to exit immediately.',
      ).signal,
    });
    output.result(report, describe(report));
  });
}

function describe({ name, generation, isUnchanged, receivedBytes, totalBytes, totalMs }: PullReport): string {
  if (isUnchanged) return `${name}@${generation} is here already.`;
  return `Pulled ${name}@${generation}: ${formatBytes(receivedBytes)} of ${formatBytes(totalBytes)} received in ${formatMs(totalMs)}.`;
}
