/** `vmckpt prune [NAME]` */
import type { Command } from 'commander';
import { EXIT_CODES, VmckptError } from '../errors.js';
import { onEveryReplica } from '../page-server/replicas.js';
import { formatBytes } from '../util/units.js';
import { DEFAULT_GRACE_MS, pruneElsewhere } from '../vms/prune-elsewhere.js';
import { prune, type PruneReport } from '../vms/prune.js';
import { addKeepOptions, policyOf, type KeepFlags } from './keep-options.js';
import type { Output } from './output.js';
import { formatTime, table } from './text.js';
import { contextOf, interruptible, nameArgument, numberIn, option, verb } from './verb.js';

interface PruneFlags extends KeepFlags {
  readonly dryRun?: true;
  readonly grace: number;
}

const HOUR_MS = 3600 * 1000;
/** Shorter than a push may take, or a restore until it has all of its memory, it would not help. */
const MIN_GRACE_HOURS = 1;
const MAX_GRACE_HOURS = 24 * 365;

export function pruneCommand(): Command {
  const command = verb(
    'prune',
    'Delete old generations, except those that a --keep option or a VM needs.\n\n' +
      'The rules are those of restic. They apply to each name separately, and a generation stays if any rule keeps it.\n' +
      'While a rule has kept fewer hours, days or weeks than it may, it keeps the oldest generation as well.',
    ['failed', 'usage', 'partial', 'notFound', 'locked', 'notPermitted', 'interrupted'],
  ).addArgument(nameArgument('[name]', 'name of the checkpoint; all of them by default'));
  return addKeepOptions(command)
    .addOption(option('--dry-run', 'delete nothing, only show what would be deleted'))
    .addOption(
      option('--grace <hours>', 'in a bucket: how long files that no generation needs stay')
        .default(DEFAULT_GRACE_MS / HOUR_MS)
        .argParser((text) => numberIn(text, { min: MIN_GRACE_HOURS, max: MAX_GRACE_HOURS })),
    )
    .action(async (name: string | undefined, flags: PruneFlags, running: Command) => {
      const context = contextOf(running);
      const { output, replicas } = context;
      const policy = policyOf(flags) ?? {};
      const { signal } = interruptible(output, 'Interrupted; what is deleted stays deleted.');
      const wishes = { name, policy, isDryRun: flags.dryRun === true, signal };
      tell(
        output,
        replicas === undefined
          ? [await prune({ storeDir: context.storeDir, ...wishes })]
          : await onEveryReplica(replicas, (store) =>
              pruneElsewhere(store, { ...wishes, graceMs: flags.grace * HOUR_MS }),
            ),
      );
    });
}

/** @param reports one for each replica. @throws VmckptError as the first removal that failed, when all have */
function tell(output: Output, reports: readonly PruneReport[]): void {
  const [failure] = reports.flatMap(({ failed }) => failed);
  if (failure !== undefined && reports.every(({ removed }) => removed.length === 0))
    throw new VmckptError(failure.code, failure.message, { hint: failure.hint });
  if (failure !== undefined) process.exitCode = EXIT_CODES.partial;
  const document = reports.length === 1 ? reports[0] : { replicas: reports };
  output.result(document, reports.map(describe).join('\n\n'));
}

function describe(report: PruneReport): string {
  const { isDryRun, kept, removed, failed } = report;
  const fates = [
    ...kept.map((label) => ({
      ...label,
      fate: `kept: ${label.neededBy === null ? label.reasons.join(', ') : `${label.neededBy} needs it`}`,
    })),
    ...removed.map((label) => ({
      ...label,
      fate: `${isDryRun ? 'would be deleted' : 'deleted'}: ${formatBytes(label.freedBytes)}`,
    })),
    ...failed.map((label) => ({ ...label, fate: `not deleted: ${label.message}` })),
  ].sort((a, b) => a.name.localeCompare(b.name) || b.generation - a.generation);
  const rows = fates.map(({ name, generation, created, fate }) => [
    name,
    String(generation),
    created === null ? '-' : formatTime(created),
    fate,
  ]);
  return `${table(['NAME', 'GEN', 'CREATED', 'FATE'], rows)}\n${summarize(report)}`;
}

export function summarize({ isDryRun, removed, freedBytes }: PruneReport): string {
  const count = `${removed.length} ${removed.length === 1 ? 'generation' : 'generations'}`;
  return isDryRun
    ? `${count} would be deleted, ${formatBytes(freedBytes)} freed.`
    : `${count} deleted, ${formatBytes(freedBytes)} freed.`;
}
