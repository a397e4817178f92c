/** `vmckpt tls init DIR` */
import path from 'node:path';
import { Argument, type Command } from 'commander';
import { makeCertificates, type MadeCertificates } from '../page-server/make-certificates.js';
import { contextOf, numberIn, option, verb } from './verb.js';

const MAX_DAYS = 3650;

interface TlsFlags {
  readonly server?: readonly string[];
  readonly client?: readonly string[];
  readonly days: number;
}

export function tlsCommand(): Command {
  const collect = (text: string, before: readonly string[] = []) => [...before, text];
  return verb(
    'tls',
    'Make certificates for page servers and their clients, and the CA that signs them.\n\n' +
      'DIR gets the CA, unless it has one, and a folder for each name. Copy that to its host, as --tls-dir.\n' +
      'Keep ca-key.pem where no other host can read it. Run it again to renew certificates.',
    ['failed', 'usage', 'notFound', 'notPermitted'],
  )
    .addArgument(new Argument('<action>', 'what to do').choices(['init']))
    .addArgument(new Argument('<dir>', 'the folder of the CA'))
    .addOption(
      option('--server <host...>', 'a server: the name or IP address that its clients use').argParser(
        collect,
      ),
    )
    .addOption(option('--client <name...>', 'a client, as the access file names it').argParser(collect))
    .addOption(
      option('--days <days>', 'how long the certificates are valid')
        .argParser((text) => numberIn(text, { min: 1, max: MAX_DAYS }))
        .default(365),
    )
    .action(async (_action: string, dir: string, flags: TlsFlags, command: Command) => {
      const { output } = contextOf(command);
      const { server: servers = [], client: clients = [], days } = flags;
      const made = await makeCertificates({ dir: path.resolve(dir), servers, clients, days });
      output.result(made, describe(path.resolve(dir), made));
    });
}

function describe(dir: string, { isNewCa, folders }: MadeCertificates): string {
  return [
    ...(isNewCa ? [`CA: ${path.join(dir, 'ca-cert.pem')}; keep ca-key.pem secret.`] : []),
    ...folders.map((folder) => `For ${path.basename(folder)}: ${folder}`),
  ].join('\n');
}
