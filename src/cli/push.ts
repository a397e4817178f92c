/** `vmckpt push NAME[@GEN] TARGET` */
import { Argument, type Command } from 'commander';
import { push, type PushReport } from '../page-server/push.js';
import { formatBytes, formatMs } from '../util/units.js';
import { addSourceTimeout, timeoutMsOf, type TimeoutFlags } from './remote-options.js';
import { contextOf, interruptible, referenceArgument, verb } from './verb.js';

export function pushCommand(): Command {
  const command = verb(
    'push',
    'Copy a generation of this store to another one, with its number.\n\n' +
      'Only what the other store lacks travels. An interrupted push goes on where it ended.',
    ['failed', 'usage', 'notFound', 'locked', 'notPermitted', 'damaged', 'incompatible', 'interrupted'],
  )
    .addArgument(referenceArgument('<reference>', 'NAME or NAME@GENERATION'))
    .addArgument(new Argument('<target>', 'the other store: a folder, tls://HOST:PORT or unix:PATH'));
  return addSourceTimeout(command, 'give up').action(
    async (reference: string, target: string, flags: TimeoutFlags, running: Command) => {
      const { output, storeDir, connecting } = contextOf(running);
      const report = await push({
        ...{ storeDir, reference, target, sourceTimeoutMs: timeoutMsOf(flags), ...connecting },
        onProgress: (done, total) => output.progress(done, total),
        onMessage: (text) => output.message(text),
        signal: interruptible(
          output,
          'Interrupted; what was sent stays there. Press Ctrl-C again to exit immediately.',
        ).signal,
      });
      output.result(report, describe(report));
    },
  );
}

function describe({ name, generation, isUnchanged, sentBytes, totalBytes, totalMs }: PushReport): string {
  if (isUnchanged) return `${name}@${generation} is there already.`;
  return `Pushed ${name}@${generation}: ${formatBytes(sentBytes)} of ${formatBytes(totalBytes)} sent in ${formatMs(totalMs)}.`;
}
