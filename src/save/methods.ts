/**
 * The ways in which QEMU gives a VM's state away: how the migration is started, watched and ended, and what has to be
 * done to the VM afterwards.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { TrackerKind } from '../capture/tracker.js';
import { VmckptError } from '../errors.js';
import type { VmDescription } from '../qemu/inspect.js';
import { isMigrating, queryMigrate, type MigrationStatus } from '../qemu/migration-control.js';
import { filesystemOf } from '../qemu/memory-files.js';
import type { QmpClient, QmpEvent } from '../qemu/qmp.js';
import type { DiskWatch } from './disk-watch.js';
import type { Instant } from './instant.js';
import { PauseClock } from './pause-clock.js';
import type { PrecopyLimit } from './precopy-limit.js';
import { asRoot } from '../util/rights.js';

export const SAVE_METHODS = ['capture', 'background-snapshot', 'precopy', 'stopped'] as const;
export type SaveMethod = (typeof SAVE_METHODS)[number];
/** Those by which QEMU sends its state. */
export type StreamMethod = Exclude<SaveMethod, 'capture'>;
/** A VM that stands still is held, and its migration never ends (held-migration.ts); of these methods it does. */
export type LiveMethod = Exclude<StreamMethod, 'stopped'>;

/** QEMU 7.2's software emulation misses writes in its dirty log: stock QEMU to stock QEMU loses memory there. */
export function losesMemoryInPrecopy({
  accelerator,
  version,
}: Pick<VmDescription, 'accelerator' | 'version'>): boolean {
  return accelerator === 'tcg' && version.major < 10;
}

export interface MethodContext {
  readonly qmp: QmpClient;
  /** Where the receiver listens. */
  readonly uri: string;
  /** Of pre-copy; without one it goes on for as long as the guest makes it. */
  readonly limit?: PrecopyLimit;
  readonly instant?: Instant;
  readonly disks?: DiskWatch;
}

export interface MethodResult {
  /** How long the VM stood still for the save. */
  readonly pauseMs: number;
  /** Passes over memory; 1 unless pages were sent again. */
  readonly iterations: number;
  readonly capture?: CaptureFigures;
}

export interface CaptureFigures {
  /** What has told which pages were written. */
  readonly tracker: TrackerKind;
  /** Only what was written since the generation before was read. */
  readonly tracked: boolean;
  /** Its tracking goes on for the next save. */
  readonly goesOn: boolean;
  /** Written while the rest was read, and copied in the last pause. */
  readonly copiedBytes: number;
  /** How often QEMU's monitor was waited for while the VM stood still. */
  readonly roundTrips: number;
}

/** QEMU tells the end by an event; it is asked only for whether it makes progress. */
const ASK_EVERY_MS = 500;
/** A save ends when QEMU says so; this only bounds a QEMU that has stopped to make progress. */
const STALL_TIMEOUT_MS = 120_000;

/** For a VM as it stands; `note` tells the user why it is another method than the one that was wished for. */
export function chooseMethod(
  vm: Pick<VmDescription, 'running' | 'memoryBackends' | 'accelerator' | 'version'>,
  wished: SaveMethod,
  {
    mayWatch = true,
    hasParticipants = false,
  }: { readonly mayWatch?: boolean; readonly hasParticipants?: boolean } = {},
): { readonly method: SaveMethod; readonly note?: string } {
  if (!vm.running) return { method: 'stopped' };
  // What lies on a tmpfs, or in huge pages, QEMU does save live.
  const isOnDisk = vm.memoryBackends.some(
    ({ type, path }) =>
      type === 'memory-backend-file' && path !== undefined && filesystemOf(path) === 'other',
  );
  if (wished !== 'background-snapshot') return { method: wished };
  // QEMU pauses it by itself then, for a few milliseconds, and asks nobody.
  if (hasParticipants)
    return {
      method: 'stopped',
      note: 'Something else is captured at the same instant: the VM is paused while it is saved, and then runs on.',
    };
  if (!isOnDisk) return mayWatch ? { method: wished } : unwatched(vm);
  return {
    method: 'stopped',
    note: 'Its memory is in a file on a disk, which QEMU cannot save live. The VM is paused while it is saved, then resumed.',
  };
}

/** For a QEMU that may not use userfaultfd. */
function unwatched(vm: Pick<VmDescription, 'accelerator' | 'version'>): ReturnType<typeof chooseMethod> {
  const remedy = `${asRoot('Run QEMU', 'CAP_SYS_PTRACE')}, or set vm.unprivileged_userfaultfd=1 (sysctl), for a save that pauses it for milliseconds.`;
  if (losesMemoryInPrecopy(vm))
    return {
      method: 'stopped',
      note: `QEMU may not use userfaultfd: the VM is paused while it is saved, then resumed. ${remedy}`,
    };
  return {
    method: 'precopy',
    note: `QEMU may not use userfaultfd: the VM is saved by pre-copy, which takes longer. ${remedy}`,
  };
}

export async function runLive(method: LiveMethod, context: MethodContext): Promise<MethodResult> {
  return method === 'precopy' ? precopy(context) : backgroundSnapshot(context);
}

/** QEMU pauses the VM, keeps its state, write-protects its memory and lets it run again by itself. */
async function backgroundSnapshot({ qmp, uri, disks }: MethodContext): Promise<MethodResult> {
  const pause = new PauseClock(qmp);
  const send = async (onResume: () => void) => {
    qmp.on('RESUME', onResume);
    await qmp.execute('migrate', { uri });
    await untilCompleted(qmp);
  };
  await (disks === undefined ? send(() => undefined) : disks.around(qmp, send));
  return { pauseMs: pause.totalMs(), iterations: 1 };
}

/** Memory is sent while the VM runs and changes it, again and again; only the last pass pauses the VM. */
async function precopy({ qmp, uri, limit, instant, disks }: MethodContext): Promise<MethodResult> {
  const pause = new PauseClock(qmp);
  await qmp.execute('migrate', { uri });
  const { iterations } = await untilCompleted(qmp, async (progress) => {
    await limit?.watch(progress);
    if (progress.status === 'pre-switchover') await switchOver(qmp, instant);
  });
  await disks?.note();
  await qmp.execute('cont');
  return { pauseMs: pause.totalMs(), iterations };
}

/** The VM is paused. A guest that has gone to sleep would never get out of the state that QEMU is in at the end. */
async function switchOver(qmp: QmpClient, instant?: Instant): Promise<void> {
  if (isAsleep(qmp.pastEvents))
    throw new VmckptError('VM_STATE', 'the guest went to sleep (suspended, S3) while it was saved', {
      hint: 'Save it again: QEMU 9 and newer save it asleep. Or wake it first: system_wakeup in its monitor.',
    });
  await instant?.capture();
  await qmp.execute('migrate-continue', { state: 'pre-switchover' });
}

function isAsleep(events: readonly QmpEvent[]): boolean {
  return events.findLast(({ name }) => name === 'SUSPEND' || name === 'WAKEUP')?.name === 'SUSPEND';
}

/** `onProgress` is called about twice a second, and when QEMU waits to be told. */
export async function untilCompleted(
  qmp: QmpClient,
  onProgress: (progress: MigrationStatus) => Promise<void> = async () => undefined,
): Promise<{ iterations: number }> {
  for await (const progress of progressOf(qmp)) {
    const { status, ram } = progress;
    if (status === 'completed') return { iterations: Math.max(1, ram?.dirtySyncCount ?? 1) };
    await onProgress(progress);
  }
  throw new Error('unreachable: a migration makes progress until it ends');
}

/**
 * How a migration goes, until it fails or nobody asks any more.
 * @throws VmckptError MIGRATION_FAILED, TIMEOUT
 */
export async function* progressOf(qmp: QmpClient): AsyncGenerator<MigrationStatus, never> {
  let wake = (): void => undefined;
  const forget = qmp.on('MIGRATION', ({ data }) => {
    const status = String(data['status']);
    if (!isMigrating(status) || status === 'pre-switchover') wake();
  });
  try {
    let moved = { bytes: -1, atMs: performance.now() };
    for (;;) {
      const woken = new Promise<void>((resolve) => (wake = resolve));
      const progress = await queryMigrate(qmp);
      const { status, errorText, ram } = progress;
      if (status === 'failed' || status === 'cancelled')
        throw new VmckptError('MIGRATION_FAILED', `QEMU could not save the VM: ${errorText ?? status}`);
      yield progress;
      const bytes = ram?.transferredBytes ?? 0;
      if (bytes !== moved.bytes) moved = { bytes, atMs: performance.now() };
      if (performance.now() - moved.atMs > STALL_TIMEOUT_MS)
        throw new VmckptError(
          'TIMEOUT',
          `QEMU has sent nothing for ${STALL_TIMEOUT_MS} ms; the save is given up`,
        );
      await Promise.race([woken, sleep(ASK_EVERY_MS, undefined, { ref: false })]);
    }
  } finally {
    forget();
  }
}
