/** All scenarios: baselines of stock QEMU first, then vmckpt's modes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { mapMainMemory, opensMemoryReadOnly } from '../qemu/mapped-memory.js';
import type { RestoreOptions } from '../restore/attempt.js';
import { nowMs } from '../timeline/clock.js';
import { DEFAULT_WISHES } from '../working-set/plan.js';
import type { ArtefactName } from './artefact.js';
import type { Restored, SavedGuest, Scenario } from './scenario.js';
import { MAPPED_RAM_SETTINGS, stockLoad, type StockLoad } from './stock.js';

/** The RAM block of a machine whose memory is given by its size alone. */
const MAIN_MEMORY = 'pc.ram';

const LAZY = { mode: 'lazy', path: 'direct' } as const;
const LEARNED = {
  mode: 'prefetch',
  path: 'direct',
  prefetch: DEFAULT_WISHES,
} as const;
const TRAINING_MS = 5_000;

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'qemu-full',
    title: 'QEMU, full restore',
    artefact: 'stream',
    restore: (saved) => stock(saved, { uri: `exec:cat '${saved.files[0]}'` }),
  },
  {
    name: 'qemu-mapped-ram',
    title: 'QEMU, mapped-ram + multifd',
    artefact: 'mappedRam',
    restore: (saved) => stock(saved, { uri: `file:${saved.files[0]}`, settings: MAPPED_RAM_SETTINGS }),
  },
  {
    name: 'private-map',
    title: 'QEMU, private mapping',
    artefact: 'memoryFile',
    restore: async (saved) => {
      const [file, devices] = saved.files;
      const { argv, ramBytes: sizeBytes } = saved.guest;
      const [binary, ...args] = argv as [string, ...string[]];
      const readOnly = opensMemoryReadOnly(saved.version.text);
      const mapped = mapMainMemory(args, { file: file!, block: MAIN_MEMORY, sizeBytes, readOnly });
      const restored = await stock(saved, { argv: [binary, ...mapped], uri: `exec:cat '${devices}'` });
      return { ...restored, completeAtMs: null };
    },
  },
  vmckpt('stream-sequential', 'lazy through the stream, sequential', 'checkpoint', {
    mode: 'lazy',
    path: 'stream',
  }),
  vmckpt('eager', 'vmckpt eager', 'checkpoint', { mode: 'eager' }),
  vmckpt('eager-raw', 'vmckpt eager, raw', 'checkpointRaw', { mode: 'eager' }),
  vmckpt('lazy', 'vmckpt lazy', 'checkpoint', LAZY),
  vmckpt('lazy-raw', 'vmckpt lazy, raw', 'checkpointRaw', LAZY),
  vmckpt('map', 'vmckpt, mapped', 'checkpointMapped', { mode: 'map' }),
  {
    ...vmckpt('learned', 'vmckpt, learned', 'checkpointLearned', LEARNED),
    // As `vmckpt learn` does.
    training: [
      (saved) => restoreByVmckpt(saved, 'checkpointLearned', { ...LAZY, ...untilTold() }),
      (saved) => restoreByVmckpt(saved, 'checkpointLearned', { ...LAZY, ...untilTold(), exactly: true }),
      (saved) => restoreByVmckpt(saved, 'checkpointLearned', LEARNED),
    ],
  },
];

/** The throughput of all others is compared with this one's. */
export const REFERENCE = SCENARIOS.find(({ name }) => name === 'eager')!;

/** For a while, the guest gets only what it asks for. */
function untilTold(): Pick<RestoreOptions, 'background' | 'exercise'> {
  return { background: 'when-told', exercise: () => sleep(TRAINING_MS) };
}

async function stock(
  { guest, signal }: SavedGuest,
  load: Pick<StockLoad, 'uri' | 'settings'> & Partial<Pick<StockLoad, 'argv'>>,
): Promise<Restored> {
  const orderedAtMs = nowMs();
  const { argv, qmpSocket, qemuLog: logPath } = guest;
  const { qemu, resumedAtMs } = await stockLoad({ argv, qmpSocket, logPath, signal, ...load });
  const { pid: qemuPid, spawnedAtMs } = qemu;
  return { qemuPid, orderedAtMs, spawnedAtMs, resumedAtMs, completeAtMs: resumedAtMs };
}

export function vmckpt(
  name: string,
  title: string,
  artefact: ArtefactName,
  how: Pick<RestoreOptions, 'mode'> & Partial<RestoreOptions>,
): Scenario {
  return { name, title, artefact, restore: (saved) => restoreByVmckpt(saved, artefact, how) };
}

async function restoreByVmckpt(
  saved: SavedGuest,
  reference: string,
  how: Pick<RestoreOptions, 'mode'> & Partial<RestoreOptions>,
): Promise<Restored> {
  const orderedAtMs = nowMs();
  const report = await saved.restore({ ...restoreWishes(saved, reference), ...how });
  const resumedAtMs = orderedAtMs + report.verbMs!;
  const spawnedAtMs = resumedAtMs - report.resumeMs!;
  return {
    qemuPid: report.qemuPid!,
    orderedAtMs,
    spawnedAtMs,
    resumedAtMs,
    completeAtMs: report.completeMs === null ? null : spawnedAtMs + report.completeMs,
    report,
  };
}

/** The options of all restores of a measurement. */
export function restoreWishes(
  { guest, storeDir, signal }: SavedGuest,
  reference: string,
): Omit<RestoreOptions, 'mode'> {
  return {
    storeDir,
    reference,
    path: 'auto',
    prefetch: { budgetMs: 0, explore: 0 },
    detach: false,
    run: true,
    qemuBinary: guest.argv[0],
    qemuArgs: undefined,
    // The console keeps a log on the host, which an untrusted command line may not.
    trustCommandLine: true,
    onProgress: () => undefined,
    onMessage: () => undefined,
    signal,
  };
}
