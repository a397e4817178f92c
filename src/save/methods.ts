/**
 * The ways in which QEMU gives a VM's state away, each as the same three steps: what is switched on, how the
 * migration is started and watched, and what has to be done to the VM afterwards.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import type { VmDescription } from '../qemu/inspect.js';
import { isMigrating, queryMigrate } from '../qemu/migration-control.js';
import { filesystemOf } from '../qemu/memory-files.js';
import type { QmpClient } from '../qemu/qmp.js';
import { roundMs } from '../timeline/clock.js';
import { asRoot } from '../util/rights.js';
import { losesMemoryInPrecopy } from './refusals.js';

export type SaveMethod = 'background-snapshot' | 'stopped' | 'precopy';

export interface MethodContext {
  readonly qmp: QmpClient;
  /** Where the receiver listens. */
  readonly uri: string;
  readonly wasRunning: boolean;
  /** A running VM that has to be paused runs on as soon as it is saved; else it stays paused. */
  readonly runsOn?: boolean;
}

export interface MethodResult {
  /** How long the VM stood still for the save. */
  readonly pauseMs: number;
  /** Passes over memory; 1 unless pages were sent again. */
  readonly iterations: number;
}

/** QEMU tells the end by an event; it is asked only for whether it makes progress. */
const ASK_EVERY_MS = 500;
/** A save ends when QEMU says so; this only bounds a QEMU that has stopped to make progress. */
const STALL_TIMEOUT_MS = 120_000;

export const CAPABILITIES_OF: Record<SaveMethod, readonly string[]> = {
  'background-snapshot': ['background-snapshot', 'events'],
  stopped: ['events'],
  precopy: ['events'],
};

/** For a VM as it stands; `note` tells the user why it is another method than the one that was wished for. */
export function chooseMethod(
  vm: Pick<VmDescription, 'running' | 'memoryBackends' | 'accelerator' | 'version'>,
  wished: SaveMethod,
  { mayWatch = true }: { readonly mayWatch?: boolean } = {},
): { readonly method: SaveMethod; readonly note?: string } {
  if (!vm.running) return { method: 'stopped' };
  // What lies on a tmpfs, or in huge pages, QEMU does save live.
  const mapped = vm.memoryBackends.some(
    ({ type, share, path }) =>
      type === 'memory-backend-file' && !share && path !== undefined && filesystemOf(path) === 'other',
  );
  if (wished !== 'background-snapshot') return { method: wished };
  if (!mapped && mayWatch) return { method: wished };
  if (!mapped) return unwatched(vm);
  return {
    method: 'stopped',
    note: 'Its memory is a private mapping of a file, which QEMU cannot save live: it is paused while it is saved, and runs on then.',
  };
}

/** For a QEMU that may not use userfaultfd. */
function unwatched(vm: Pick<VmDescription, 'accelerator' | 'version'>): ReturnType<typeof chooseMethod> {
  const remedy = `${asRoot('Run QEMU', 'CAP_SYS_PTRACE')}, or set vm.unprivileged_userfaultfd=1 (sysctl), for a save that pauses it for milliseconds.`;
  if (losesMemoryInPrecopy(vm))
    return {
      method: 'stopped',
      note: `QEMU may not use userfaultfd: the VM is paused while it is saved, and then runs on. ${remedy}`,
    };
  return {
    method: 'precopy',
    note: `QEMU may not use userfaultfd: the VM is saved by pre-copy, which takes longer. ${remedy}`,
  };
}

export async function runMethod(method: SaveMethod, context: MethodContext): Promise<MethodResult> {
  if (method === 'background-snapshot') return backgroundSnapshot(context);
  return method === 'precopy' ? precopy(context) : stopped(context);
}

/** QEMU pauses the VM, keeps its state, write-protects its memory and lets it run again by itself. */
async function backgroundSnapshot({ qmp, uri }: MethodContext): Promise<MethodResult> {
  const pause = new PauseClock(qmp);
  await qmp.execute('migrate', { uri });
  await untilCompleted(qmp);
  return { pauseMs: pause.totalMs(), iterations: 1 };
}

async function stopped({ qmp, uri, wasRunning, runsOn }: MethodContext): Promise<MethodResult> {
  const startedMs = performance.now();
  if (wasRunning) await qmp.execute('stop');
  await qmp.execute('migrate', { uri });
  const { iterations } = await untilCompleted(qmp);
  if (wasRunning && runsOn) await qmp.execute('cont');
  return { pauseMs: wasRunning ? roundMs(performance.now() - startedMs) : 0, iterations };
}

/** Memory is sent while the VM runs and changes it, again and again; only the last pass pauses the VM. */
async function precopy({ qmp, uri }: MethodContext): Promise<MethodResult> {
  const pause = new PauseClock(qmp);
  await qmp.execute('migrate', { uri });
  const { iterations } = await untilCompleted(qmp);
  await qmp.execute('cont');
  return { pauseMs: pause.totalMs(), iterations };
}

async function untilCompleted(qmp: QmpClient): Promise<{ iterations: number }> {
  const ended = new Promise<void>((resolve) => {
    qmp.on('MIGRATION', ({ data }) => isMigrating(String(data['status'])) || resolve());
  });
  let moved = { bytes: -1, atMs: performance.now() };
  for (;;) {
    const { status, errorText, ram } = await queryMigrate(qmp);
    if (status === 'completed') return { iterations: Math.max(1, ram?.dirtySyncCount ?? 1) };
    if (status === 'failed' || status === 'cancelled')
      throw new VmckptError('MIGRATION_FAILED', `QEMU could not save the VM: ${errorText ?? status}`);
    const bytes = ram?.transferredBytes ?? 0;
    if (bytes !== moved.bytes) moved = { bytes, atMs: performance.now() };
    if (performance.now() - moved.atMs > STALL_TIMEOUT_MS)
      throw new VmckptError(
        'TIMEOUT',
        `QEMU has sent nothing for ${STALL_TIMEOUT_MS} ms; the save is given up`,
      );
    await Promise.race([ended, sleep(ASK_EVERY_MS, undefined, { ref: false })]);
  }
}

/** Adds up the time between QEMU's STOP and RESUME events, by QEMU's own clock. */
class PauseClock {
  #stoppedAtMs: number | undefined;
  #totalMs = 0;

  constructor(qmp: QmpClient) {
    qmp.on('STOP', ({ timestampMs }) => (this.#stoppedAtMs = timestampMs));
    qmp.on('RESUME', ({ timestampMs }) => {
      if (this.#stoppedAtMs !== undefined) this.#totalMs += timestampMs - this.#stoppedAtMs;
      this.#stoppedAtMs = undefined;
    });
  }

  totalMs(): number {
    return roundMs(this.#totalMs);
  }
}
