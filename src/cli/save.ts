/** `vmckpt save VM NAME` */
import { Argument, type Command } from 'commander';
import { VmckptError } from '../errors.js';
import { LAYOUTS, save, type Layout, type SaveReport } from '../save/save.js';
import { requireVmAddress } from '../save/source-vm.js';
import { formatBytes, formatMs } from '../util/units.js';
import { addKeepOptions, policyOf, type KeepFlags } from './keep-options.js';
import { summarize } from './prune.js';
import { contextOf, interruptible, nameArgument, numberIn, option, verb } from './verb.js';

const LIVE_METHODS = ['capture', 'background-snapshot', 'precopy'] as const;
const MAX_PAUSE_RANGE_MS = { min: 1, max: 60_000 };

interface SaveFlags extends KeepFlags {
  readonly stop?: true;
  readonly live?: (typeof LIVE_METHODS)[number];
  readonly maxPause?: number;
  readonly quit?: true;
  readonly track?: true;
  readonly untrack?: true;
  readonly level: number | 'none';
  readonly full?: true;
  readonly layout: Layout;
  readonly disks?: 'external';
  readonly ownCommandLine?: true;
}

export function saveCommand(): Command {
  const command = verb('save', 'Save a VM in the store as a new generation of NAME.', [
    'failed',
    'usage',
    'notFound',
    'locked',
    'notPermitted',
    'incompatible',
    'interrupted',
  ])
    .addArgument(
      new Argument('<vm>', 'qmp:/path/to/qmp.sock of a running, sleeping or paused VM').argParser(
        requireVmAddress,
      ),
    )
    .addArgument(nameArgument('<name>', 'name of the checkpoint'))
    .addOption(
      option(
        '--live <method>',
        'how to save a running VM; by default capture, or what the host and QEMU permit instead',
      )
        .choices(LIVE_METHODS)
        .conflicts('stop'),
    )
    .addOption(
      option(
        '--max-pause <ms>',
        'of a capture: how long the VM may stand still at a time, as far as what it writes allows; by default 50',
      )
        .argParser((text: string) => numberIn(text, MAX_PAUSE_RANGE_MS))
        .conflicts('stop'),
    )
    .addOption(
      option(
        '--track',
        'have the kernel note what the VM writes from now on, so that the next save of NAME reads nothing else; QEMU cannot make background snapshots meanwhile, for whatever tool',
      ).conflicts(['stop', 'quit', 'live']),
    )
    .addOption(option('--untrack', 'end that when the VM is saved').conflicts('track'))
    .addOption(option('--stop', 'pause the VM, save it, and leave it paused'))
    .addOption(option('--quit', 'end QEMU after the save').implies({ stop: true }).conflicts('live'))
    .addOption(option('--level <n>', 'zstd level 1–19, or none').argParser(parseLevel).default(1))
    .addOption(option('--full', 'store everything, also what the generation before has already'))
    .addOption(
      option('--layout <layout>', 'raw: also make the raw memory file that restore --mode map needs')
        .choices(LAYOUTS)
        .default('extents'),
    )
    .addOption(
      option('--disks <who>', '"external": you take care of writable disks yourself').choices(['external']),
    )
    .addOption(
      option(
        '--own-command-line',
        'save the VM even if a restore would refuse its command line: you will give another one, restore NAME -- QEMU ARGS…',
      ),
    )
    .action(run);
  return addKeepOptions(command);
}

async function run(vm: string, name: string, flags: SaveFlags, running: Command): Promise<void> {
  const { output, storeDir } = contextOf(running);
  const keep = policyOf(flags);
  const { signal, tooLate } = interruptible(
    output,
    'Interrupted; restoring the VM to its former state. Press Ctrl-C again to exit immediately; a VM that is paused then ' +
      'stays paused until the next save, or vmckpt rescue.',
  );
  const report = await save({
    vm,
    storeDir,
    name,
    method: flags.stop === true ? 'stopped' : (flags.live ?? 'capture'),
    mayFallBack: flags.live === undefined,
    ...(flags.maxPause !== undefined && { maxPauseMs: flags.maxPause }),
    ...((flags.track ?? flags.untrack) !== undefined && { track: flags.track === true }),
    quit: flags.quit === true,
    level: flags.level,
    full: flags.full === true,
    layout: flags.layout,
    ownCommandLine: flags.ownCommandLine === true,
    disksExternal: flags.disks === 'external',
    ...(keep !== undefined && { keep }),
    onProgress: (done, total) => output.progress(done, total),
    onMessage: (text) => output.message(text),
    onDetail: (text) => output.detail(text),
    signal,
    onCommit: tooLate,
  });
  output.result(report, describe(report));
}

function describe(report: SaveReport): string {
  const { name, generation, pauseMs, totalMs, storedBytes, ownBytes, nonZeroBytes, isSealed, pruned } =
    report;
  const shared =
    storedBytes > ownBytes ? `, ${formatBytes(storedBytes - ownBytes)} shared with earlier ones` : '';
  return (
    `Saved ${name}@${generation}: ${formatBytes(nonZeroBytes)} of memory in ${formatBytes(ownBytes)}${shared}, ` +
    `paused for ${formatMs(pauseMs)}, done in ${formatMs(totalMs)}${isSealed ? '' : ', not sealed'}.` +
    (pruned === null ? '' : `\n${summarize(pruned)}`)
  );
}

/** @throws VmckptError USAGE */
export function parseLevel(text: string): number | 'none' {
  if (text === 'none') return 'none';
  const level = Number(text);
  if (Number.isInteger(level) && level >= 1 && level <= 19) return level;
  throw new VmckptError('USAGE', `--level ${text} is not a zstd level, expected 1–19 or none`);
}
