/** All verbs, in the order of the help. */
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
import { pruneCommand } from './prune.js';
import { psCommand } from './ps.js';
import { pullCommand } from './pull.js';
import { pushCommand } from './push.js';
import { replicateCommand } from './replicate.js';
import { rescueCommand } from './rescue.js';
import { restoreCommand } from './restore.js';
import { rmCommand } from './rm.js';
import { saveCommand } from './save.js';
import { serveCommand } from './serve.js';
import { showCommand } from './show.js';
import { stopCommand } from './stop.js';
import { tlsCommand } from './tls.js';
import { uffdCommand } from './uffd.js';
import type { MakeVerb } from './program.js';

export const VERBS: readonly MakeVerb[] = [
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
  pruneCommand,
  pullCommand,
  pushCommand,
  replicateCommand,
  importCommand,
  exportCommand,
  benchCommand,
  serveCommand,
  tlsCommand,
  uffdCommand,
  doctorCommand,
  rescueCommand,
  completionCommand,
  manCommand,
];
