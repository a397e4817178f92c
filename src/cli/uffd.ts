/** `vmckpt uffd NAME[@GEN] --socket PATH` */
import type { Command } from 'commander';
import { serveMemory, type ServeReport } from '../uffd/serve.js';
import { formatBytes, formatMs } from '../util/units.js';
import { contextOf, interruptible, option, referenceArgument, verb } from './verb.js';

const LOADS_THE_REST =
  'Interrupted; loading the rest of the VM’s memory first. ' +
  'Press Ctrl-C again to exit immediately; the VM will then hang on its first missing page.';

interface UffdFlags {
  readonly socket: string;
  readonly onFailure: 'report' | 'kill';
  readonly demandOnly?: true;
}

export function uffdCommand(): Command {
  return verb(
    'uffd',
    'Serve the page faults of one VM of another VMM (Firecracker), from memory that was imported with --raw-memory.',
    ['failed', 'usage', 'notFound', 'locked', 'notPermitted', 'damaged', 'incompatible', 'interrupted'],
  )
    .addArgument(referenceArgument('<reference>', 'NAME or NAME@GENERATION'))
    .addOption(
      option('--socket <path>', 'unix socket on which the VMM hands over its memory').makeOptionMandatory(),
    )
    .addOption(
      option('--on-failure <what>', 'report: report memory that cannot be loaded; kill: also kill the VMM')
        .choices(['report', 'kill'])
        .default('report'),
    )
    .addOption(option('--demand-only', 'load only pages that the VM touches, and stay until it ends'))
    .action(async (reference: string, flags: UffdFlags, command: Command) => {
      const { output, storeDir } = contextOf(command);
      let isServed = false;
      const whatHappens = (): string => (isServed ? LOADS_THE_REST : 'Interrupted.');
      const report = await serveMemory({
        storeDir,
        reference,
        socketPath: flags.socket,
        onFailure: flags.onFailure,
        demandOnly: flags.demandOnly === true,
        onProgress: (done, total) => output.progress(done, total),
        onMessage: (text) => output.message(text),
        onPeer: () => (isServed = true),
        signal: interruptible(output, whatHappens).signal,
      });
      output.result(report, describe(report));
    });
}

function describe(report: ServeReport): string {
  const { ending, peerPid, ramBytes, completeMs, servedMs, demandFaults } = report;
  const faults = `${demandFaults} faults served`;
  return ending === 'handed-back'
    ? `All ${formatBytes(ramBytes)} in place after ${formatMs(completeMs!)}, ${faults}: process ${peerPid} goes on by itself.`
    : `Process ${peerPid} has ended after ${formatMs(servedMs)}, ${faults}.`;
}
