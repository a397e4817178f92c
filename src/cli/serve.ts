/** `vmckpt serve` */
import type { Command } from 'commander';
import { parseAddress, type Address } from '../page-server/address.js';
import { contextOf, interruptible, option, verb } from './verb.js';

interface ServeFlags {
  readonly listen?: readonly Address[];
  readonly access?: string;
  readonly metrics?: Address;
}

const DEFAULT_ADDRESS = 'tls://0.0.0.0:7070';

export function serveCommand(): Command {
  return verb(
    'serve',
    'Serve the store to other hosts, until it is interrupted.\n\n' +
      'Both sides show certificates of the same CA (vmckpt tls). Without --access, who has one may read everything and\n' +
      'change nothing. Who comes by a unix socket of the same user may do everything. systemd may hand over the sockets.',
    ['failed', 'usage', 'notFound', 'notPermitted'],
  )
    .addOption(
      option(
        '--listen <address...>',
        `where: tls://HOST:PORT, unix:PATH, or tcp://HOST:PORT on loopback; by default ${DEFAULT_ADDRESS}`,
      ).argParser((text, before: readonly Address[] = []) => [...before, parseAddress(text)]),
    )
    .addOption(option('--access <file>', 'which client may read, push or remove what (docs/security.md)'))
    .addOption(
      option('--metrics <address>', 'figures for Prometheus by HTTP: tcp://HOST:PORT or unix:PATH').argParser(
        parseAddress,
      ),
    )
    .action(async (flags: ServeFlags, command: Command) => {
      const { output, storeDir, connecting } = contextOf(command);
      const { serve } = await import('../page-server/server/serve.js');
      const { signal } = interruptible(output, 'Ending: what is under way is answered.');
      const counters = await serve({
        ...{ storeDir, signal, ...connecting },
        addresses: flags.listen ?? [parseAddress(DEFAULT_ADDRESS)],
        accessFile: flags.access,
        metrics: flags.metrics,
        onListening: (addresses) => output.message(`Serving ${storeDir} on ${addresses.join(', ')}.`),
        onMessage: (text) => output.message(text),
      });
      output.result(counters.summary(), '');
    });
}
