/** `vmckpt replicate NAME TARGET [--follow]` */
import { Argument, type Command } from 'commander';
import { replicate, type ReplicatedGeneration } from '../page-server/replicate.js';
import { formatBytes, formatMs } from '../util/units.js';
import { addSourceTimeout, timeoutMsOf, type TimeoutFlags } from './remote-options.js';
import { contextOf, interruptible, nameArgument, option, verb } from './verb.js';

interface ReplicateFlags extends TimeoutFlags {
  readonly follow?: true;
}

export function replicateCommand(): Command {
  const command = verb(
    'replicate',
    'Copy all generations of a name that are newer than those of another store there.\n\n' +
      'With --follow, each new generation follows as it appears, until Ctrl-C. The lag is the time from then until the\n' +
      'other store has it.',
    ['failed', 'usage', 'notFound', 'locked', 'notPermitted', 'damaged', 'incompatible', 'interrupted'],
  )
    .addArgument(nameArgument('<name>', 'name of the checkpoint'))
    .addArgument(new Argument('<target>', 'the other store: a folder, tls://HOST:PORT or unix:PATH'))
    .addOption(option('--follow', 'go on with each new generation'));
  return addSourceTimeout(command, 'give up').action(
    async (name: string, target: string, flags: ReplicateFlags, running: Command) => {
      const { output, storeDir, connecting } = contextOf(running);
      const isFollowing = flags.follow === true;
      const whatHappens = isFollowing ? 'Ending.' : 'Interrupted; what was sent stays there.';
      const report = await replicate({
        ...{ storeDir, name, target, isFollowing, sourceTimeoutMs: timeoutMsOf(flags), ...connecting },
        onProgress: (done, total) => output.progress(done, total),
        onMessage: (text) => output.message(text),
        onReplicated: (generation) => output.message(describe(generation)),
        signal: interruptible(output, `${whatHappens} Press Ctrl-C again to exit immediately.`).signal,
      });
      const count = report.replicated.length;
      output.result(
        report,
        `${count} ${count === 1 ? 'generation' : 'generations'} replicated to ${target}.`,
      );
    },
  );
}

function describe({ name, generation, sentBytes, lagMs }: ReplicatedGeneration): string {
  return `Replicated ${name}@${generation}: ${formatBytes(sentBytes)} sent, ${formatMs(lagMs)} after it was saved.`;
}
