/**
 * The story of a save: look at the VM, refuse what cannot be brought back, let QEMU send its state to a receiver
 * of ours, write every page as it passes, and give the VM back as it was: in every way out.
 */
import { CheckpointWriter } from '../checkpoint/writer.js';
import type { Manifest } from '../checkpoint/manifest.js';
import { mainMemoryName } from '../checkpoint/raw-memory.js';
import type { ParsedStream } from '../migration-stream/parser.js';
import { refuseBlockers } from '../qemu/blockers.js';
import { inspectVm, type VmDescription } from '../qemu/inspect.js';
import {
  applyMigrationSettings,
  lacksUserfaultfd,
  readMigrationSettings,
  withoutUserfaultfd,
  type MigrationSettings,
} from '../qemu/migration-control.js';
import type { QmpClient } from '../qemu/qmp.js';
import { Store, type PendingGeneration } from '../store/store.js';
import { VmckptError } from '../errors.js';
import { writeRawMemory } from '../transfer/raw-memory.js';
import { withDeadline } from '../util/deadline.js';
import { identifyProcess, untilEnded, type ProcessIdentity } from '../util/process-identity.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { manifestParts } from './manifest-parts.js';
import { DirtyPages } from './dirty-pages.js';
import { CAPABILITIES_OF, chooseMethod, runMethod, type MethodResult, type SaveMethod } from './methods.js';
import { connectToVm, giveBack, putRight } from './putting-right.js';
import { readStream } from './read-stream.js';
import { Receiver } from './receiver.js';
import { refuseUnsafe } from './refusals.js';
import { sealGeneration } from './seal-generation.js';
import { teachWorkingSet } from './teach.js';
import { VmJournal, type JournalNote } from './vm-journal.js';

const DEATH_TIMEOUT_MS = 2_000;
/** What is left then fits into the pipe and the writer's queue. */
const END_TIMEOUT_MS = 120_000;
/** QEMU's default is a low cap made for networks; this is no limit at all on any disk. */
const UNLIMITED_BANDWIDTH = 2 ** 40;

export const LAYOUTS = ['extents', 'raw'] as const;
export type Layout = (typeof LAYOUTS)[number];

export interface SaveOptions {
  readonly qmpSocket: string;
  readonly storeDir: string;
  readonly name: string;
  /** For a running VM; a paused one is saved as it stands. */
  readonly method: SaveMethod;
  /** Where QEMU may not use userfaultfd, save a running VM by another method than background-snapshot. */
  readonly mayFallBack?: boolean;
  /** End QEMU after the save. */
  readonly quit: boolean;
  readonly level: number | 'none';
  /** `raw` makes the raw memory file as well, which `restore --mode map` maps. */
  readonly layout?: Layout;
  /** The user takes care of writable disks. */
  readonly disksExternal: boolean;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

export interface SaveReport {
  readonly name: string;
  readonly generation: number;
  readonly ramBytes: number;
  readonly nonZeroBytes: number;
  readonly storedBytes: number;
  /** How long the VM stood still for the save; 0 when it was paused already. */
  readonly pauseMs: number;
  readonly totalMs: number;
  readonly iterations: number;
  readonly deviceStateBytes: number;
}

/**
 * @throws VmckptError QMP_UNREACHABLE and its like, VM_BUSY, STORE_LOCKED, DISKS_WRITABLE, MIGRATION_BLOCKED,
 * QEMU_UNSUPPORTED, MIGRATION_FAILED, NO_SPACE, QEMU_DIED, INTERRUPTED: the VM is as before, the store too
 */
export async function save(options: SaveOptions): Promise<SaveReport> {
  try {
    return await saveOnce(options, { mayWatch: true });
  } catch (error) {
    if (options.mayFallBack !== true || !lacksUserfaultfd(error)) throw error;
    return saveOnce(options, { mayWatch: false });
  }
}

async function saveOnce(
  options: SaveOptions,
  { mayWatch }: { readonly mayWatch: boolean },
): Promise<SaveReport> {
  const startMs = nowMs();
  const { signal, onMessage } = options;
  const qmp = await connectToVm(options.qmpSocket, signal);
  try {
    const journal = VmJournal.open(identifyPeer(qmp));
    try {
      await putRight({ qmp, journal, onMessage });
      const vm = await inspectVm(qmp);
      const { method, note } = chooseMethod(vm, options.method, { mayWatch });
      if (note !== undefined) onMessage(note);
      refuseUnsafe(vm, { method, disksExternal: options.disksExternal });
      if (options.layout === 'raw') mainMemoryName(vm.memoryBackends);
      await refuseBlockers(qmp, vm);
      const store = await Store.openOrCreate(options.storeDir);
      const pending = await store.begin(options.name);
      try {
        const { manifest, result } = await saveInto(pending, { options, qmp, journal, vm, method });
        if (options.quit) await qmp.execute('quit');
        return reportOf(manifest, result, roundMs(nowMs() - startMs));
      } catch (error) {
        await pending.abort();
        throw error;
      }
    } finally {
      journal.close();
    }
  } finally {
    await qmp.close();
  }
}

interface Work {
  readonly options: SaveOptions;
  readonly qmp: QmpClient;
  readonly journal: VmJournal;
  readonly vm: VmDescription;
  readonly method: SaveMethod;
}

/** Borrows the VM's migration settings, saves, and gives them back; a save that failed also lets the VM run again. */
async function saveInto(
  pending: PendingGeneration,
  work: Work,
): Promise<{ manifest: Manifest; result: MethodResult }> {
  const { vm, method, options } = work;
  const note = await noteSettings(work);
  let saved = false;
  try {
    await changeSettings(work);
    const { stream, writer, dirty, result } = await transfer(pending, work);
    const parts = manifestParts({ vm, method, name: options.name, generation: pending.generation, stream });
    const manifest = await writer.finish(parts, stream.deviceState);
    const { dir, formerDir } = pending;
    const unsealed = await sealGeneration(dir, { manifest, vm });
    if (unsealed !== undefined) options.onMessage(unsealed);
    const problem = await teachWorkingSet({ dir, formerDir, dirtyPages: dirty.pages });
    if (problem !== undefined) options.onMessage(`Restores begin without a prediction: ${problem}.`);
    if (options.layout === 'raw') await writeRawMemory(pending.dir, { signal: options.signal });
    await pending.commit();
    saved = true;
    return { manifest, result };
  } finally {
    await settle(work, { note, saved });
  }
}

/** Gives the VM back, if it still lives. @throws VmckptError QEMU_DIED when its end has cost the checkpoint */
async function settle(
  { options, qmp, journal, vm }: Work,
  { note, saved }: { readonly note: JournalNote; readonly saved: boolean },
): Promise<void> {
  const stayPaused = saved && options.method === 'stopped';
  let death: unknown;
  try {
    await giveBack(qmp, { ...note, wasRunning: note.wasRunning && !stayPaused });
  } catch (error) {
    if (!(await hasDied(vm, error))) throw error;
    death = error;
  }
  journal.clear();
  if (death !== undefined && !saved)
    throw new VmckptError('QEMU_DIED', `QEMU (process ${vm.pid}) ended while it was being saved`, {
      hint: 'Nothing of this save is left; the generations before it are unharmed.',
      cause: death,
    });
}

/** A process that ends closes its monitor a little before it is gone. */
async function hasDied(qemu: ProcessIdentity, error: unknown): Promise<boolean> {
  if (!(error instanceof VmckptError) || error.code !== 'QMP_CLOSED') return false;
  return untilEnded(qemu, DEATH_TIMEOUT_MS).then(
    () => true,
    () => false,
  );
}

function settingsOf(method: SaveMethod): MigrationSettings {
  return {
    capabilities: Object.fromEntries(CAPABILITIES_OF[method].map((name) => [name, true])),
    parameters: { 'max-bandwidth': UNLIMITED_BANDWIDTH },
  };
}

/** What the save will change, as it was: in the journal before the first of it is changed. */
async function noteSettings({ qmp, journal, vm, method }: Work): Promise<JournalNote> {
  const wanted = settingsOf(method);
  const current = await readMigrationSettings(qmp);
  const note: JournalNote = {
    wasRunning: vm.running,
    method,
    capabilities: pick(current.capabilities, wanted.capabilities),
    parameters: pick(current.parameters, wanted.parameters),
  };
  journal.write(note);
  return note;
}

async function changeSettings({ qmp, method }: Work): Promise<void> {
  try {
    await applyMigrationSettings(qmp, settingsOf(method));
  } catch (error) {
    throw method === 'background-snapshot'
      ? withoutUserfaultfd(error, { what: 'QEMU may not be saved while it runs', instead: '--stop' })
      : error;
  }
}

interface Transferred {
  readonly stream: ParsedStream;
  readonly writer: CheckpointWriter;
  readonly dirty: DirtyPages;
  readonly result: MethodResult;
}

/** QEMU sends and we write, side by side. */
async function transfer(pending: PendingGeneration, work: Work): Promise<Transferred> {
  const { options, qmp, vm, method } = work;
  const receiver = await Receiver.start();
  let writer: CheckpointWriter | undefined;
  let dirty: DirtyPages | undefined;
  const giveUp = new AbortController();
  const signal = AbortSignal.any([options.signal, giveUp.signal]);
  const writing = readStream({
    fd: receiver.stream,
    handler: {
      onLayout: (layout) => {
        writer = CheckpointWriter.create(pending.dir, { layout, level: options.level });
        return (dirty = new DirtyPages(writer, { method, pageCount: layout.pageCount }));
      },
    },
    ready: () => writer?.ready() ?? Promise.resolve(),
    onProgress: (streamBytes) => options.onProgress(streamBytes, vm.ramBytes),
    signal,
  });
  try {
    const result = await Promise.race([
      receiver.lendTo(qmp).then((uri) => {
        // The pipe of a save that was given up in between is taken back: QEMU would fail for want of it.
        signal.throwIfAborted();
        return runMethod(method, { qmp, uri, wasRunning: vm.running, runsOn: options.method !== 'stopped' });
      }),
      failureOf(writing),
      rejectOnAbort(options.signal),
    ]);
    const stream = await withDeadline(writing, {
      what: 'QEMU to end its stream, and the rest to be written',
      timeoutMs: END_TIMEOUT_MS,
    });
    receiver.discard();
    return { stream, writer: writer!, dirty: dirty!, result };
  } catch (error) {
    // The reader is not waited for: it touches neither the pipe nor the writer from here on.
    giveUp.abort(error);
    // At once: while nobody reads, QEMU waits, and a VM that writes with it.
    receiver.discard();
    await writer?.abort();
    throw error;
  }
}

/** Why the stream could not be stored. When it merely breaks off, QEMU knows better why. */
async function failureOf(writing: Promise<unknown>): Promise<never> {
  await writing.catch((error: unknown) => {
    if (!(error instanceof VmckptError) || error.code !== 'STREAM_TRUNCATED') throw error;
  });
  return new Promise<never>(() => undefined);
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const abort = () => reject(signal.reason as Error);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
  });
}

function pick<T>(from: Readonly<Record<string, T>>, like: object): Record<string, T> {
  return Object.fromEntries(Object.entries(from).filter(([key]) => key in like));
}

/** QEMU, as the other end of its monitor. @throws VmckptError QEMU_DIED */
function identifyPeer(qmp: QmpClient): ProcessIdentity {
  const identity = identifyProcess(qmp.peerPid());
  if (identity !== undefined) return identity;
  throw new VmckptError(
    'QEMU_DIED',
    `QEMU's process ${qmp.peerPid()} has ended, or is not visible from here`,
  );
}

function reportOf(manifest: Manifest, { pauseMs, iterations }: MethodResult, totalMs: number): SaveReport {
  const { name, generation, sizes } = manifest;
  const { ramBytes, nonZeroBytes, storedBytes, deviceStateBytes } = sizes;
  return {
    name,
    generation,
    ramBytes,
    nonZeroBytes,
    storedBytes,
    pauseMs,
    totalMs,
    iterations,
    deviceStateBytes,
  };
}
