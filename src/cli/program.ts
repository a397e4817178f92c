/** The tree of verbs. The manual page and the shell completion are made from it, so they always agree with it. */
import { Command } from 'commander';
import { defaultTlsDir } from '../page-server/tls.js';
import { packageVersion } from '../util/package-paths.js';
import { defaultStore, option } from './verb.js';

export type MakeVerb = () => Command;

/** `vmckpt` with some or all of its verbs (verbs.ts). */
export function buildProgram(verbs: readonly MakeVerb[]): Command {
  const program = new Command('vmckpt')
    .description('Save QEMU/KVM virtual machines while they run, and bring them back in milliseconds.')
    .version(packageVersion())
    .addOption(
      option(
        '--store <dir|address>',
        'where checkpoints are kept: a folder, or for some verbs a page server (tls://HOST:PORT, unix:PATH)',
      ).default(defaultStore(), '$XDG_DATA_HOME/vmckpt'),
    )
    .addOption(
      option('--tls-dir <dir>', 'certificates for page servers').default(
        defaultTlsDir(),
        '$XDG_CONFIG_HOME/vmckpt/tls',
      ),
    )
    .addOption(option('--insecure-plaintext', 'page servers of other hosts without TLS (tcp://HOST:PORT)'))
    .addOption(option('--json', 'print one JSON document instead of text'))
    .addOption(option('-q, --quiet', 'no progress and no messages').conflicts('verbose'))
    .addOption(option('-v, --verbose', 'print more details'))
    .addOption(option('--no-color', 'no colours (NO_COLOR has the same effect)'));
  for (const makeVerb of verbs) program.addCommand(makeVerb());
  // main.ts prints all errors.
  for (const command of [program, ...program.commands])
    command.exitOverride().configureOutput({ writeErr: () => undefined });
  return program;
}
