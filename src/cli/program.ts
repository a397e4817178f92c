/** The tree of verbs. Also read by the man page and the shell completion, so that neither can disagree with it. */
import { Command } from 'commander';
import { packageVersion } from '../util/package-paths.js';
import { benchCommand } from './bench.js';
import { checkCommand } from './check.js';
import { completionCommand } from './completion.js';
import { doctorCommand } from './doctor.js';
import { exportCommand } from './export.js';
import { importCommand } from './import.js';
import { learnCommand } from './learn.js';
import { listCommand } from './list.js';
import { logsCommand } from './logs.js';
import { manCommand } from './man.js';
import { materializeCommand } from './materialize.js';
import { psCommand } from './ps.js';
import { rescueCommand } from './rescue.js';
import { restoreCommand } from './restore.js';
import { rmCommand } from './rm.js';
import { saveCommand } from './save.js';
import { showCommand } from './show.js';
import { stopCommand } from './stop.js';
import { uffdCommand } from './uffd.js';
import { defaultStore, option } from './verb.js';

const VERBS = [
  saveCommand,
  restoreCommand,
  learnCommand,
  psCommand,
  stopCommand,
  logsCommand,
  listCommand,
  showCommand,
  checkCommand,
  materializeCommand,
  rmCommand,
  importCommand,
  exportCommand,
  benchCommand,
  uffdCommand,
  doctorCommand,
  rescueCommand,
  completionCommand,
  manCommand,
] as const;

export function buildProgram(): Command {
  const program = new Command('vmckpt')
    .description('Save QEMU/KVM virtual machines while they run, and bring them back in milliseconds.')
    .version(packageVersion())
    .addOption(
      option('--store <dir>', 'where checkpoints are kept').default(defaultStore(), '$XDG_DATA_HOME/vmckpt'),
    )
    .addOption(option('--json', 'print one JSON document instead of text'))
    .addOption(option('-q, --quiet', 'no progress and no messages').conflicts('verbose'))
    .addOption(option('-v, --verbose', 'print more details'))
    .addOption(option('--no-color', 'no colours (NO_COLOR has the same effect)'));
  for (const makeVerb of VERBS) program.addCommand(makeVerb());
  // What goes wrong is printed in one place, in main.ts.
  for (const command of [program, ...program.commands])
    command.exitOverride().configureOutput({ writeErr: () => undefined });
  return program;
}
