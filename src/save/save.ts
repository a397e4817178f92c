/**
 * The story of a save: look at the VM, refuse what cannot be brought back, let QEMU send its state to a receiver
 * of ours, write every page as it passes, and give the VM back as it was: in every way out.
 */
import { noteDisksAtEnd } from '../checkpoint/disks-at-end.js';
import type { Manifest } from '../checkpoint/manifest.js';
import type { Chain } from '../checkpoint/writer.js';
import type { SavedVm } from '../launch/launch-plan.js';
import type { Problem } from '../launch/requirements.js';
import { refuseBlockers } from '../qemu/blockers.js';
import { findDrift, type Drift } from '../qemu/drift/drift.js';
import type { VmDescription } from '../qemu/inspect.js';
import { lacksUserfaultfd } from '../qemu/migration-control.js';
import type { QmpClient } from '../qemu/qmp.js';
import { requirePolicy, type RetentionPolicy } from '../store/retention.js';
import { Store, type PendingGeneration } from '../store/store.js';
import { VmckptError } from '../errors.js';
import { writeRawMemory } from '../transfer/raw-memory.js';
import { untilEnded, type ProcessIdentity } from '../util/process-identity.js';
import { debugSteps, elided } from '../util/debug.js';
import { parkAt } from '../util/park.js';
import { saysOnce } from '../util/says-once.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { accountForChanges, withLinks } from './account-for-changes.js';
import { capture, type Captured } from './capture.js';
import { DiskWatch } from './disk-watch.js';
import { Instant, type InstantParticipant } from './instant.js';
import { keepTracking } from './kept-tracking.js';
import { lendAndTransfer, noteSettings } from './lending.js';
import { manifestParts, savedVmOf } from './manifest-parts.js';
import { chooseMethod, type CaptureFigures, type MethodResult, type SaveMethod } from './methods.js';
import { pruneOlder } from './prune-older.js';
import { giveBack, putRight } from './putting-right.js';
import { refuseUnsafe } from './refusals.js';
import { messagesOf, refuseUnrestorable, rehearseRestore } from './rehearsal.js';
import { isRoutine } from './routine.js';
import { sealGeneration } from './seal-generation.js';
import { openVm } from './source-vm.js';
import { teachWorkingSet } from './teach.js';
import { tracesBefore } from './traces-before.js';
import { endTracking } from './tracked-vms.js';
import type { Transferred } from './transfer.js';
import { adviceOnTransfer } from '../vms/advice.js';
import type { PruneReport } from '../vms/prune.js';
import { VmJournal, type JournalNote } from './vm-journal.js';

const DEATH_TIMEOUT_MS = 2_000;
const MAX_PAUSE_MS = 50;

export const LAYOUTS = ['extents', 'raw'] as const;
export type Layout = (typeof LAYOUTS)[number];

export interface SaveOptions {
  /** `qmp:PATH`, the QMP socket of a QEMU. */
  readonly vm: string;
  readonly storeDir: string;
  readonly name: string;
  /** For a running VM; a paused one is saved as it stands. */
  readonly method: SaveMethod;
  /** Where a running VM cannot be captured, or QEMU may not use userfaultfd, it is saved by another method. */
  readonly mayFallBack?: boolean;
  /** Of a capture: how long the VM may stand still at a time, unless its guest writes too fast. MAX_PAUSE_MS by default. */
  readonly maxPauseMs?: number;
  /**
   * true: what the VM writes is tracked from this generation on, so that the next save of its name need not read the
   * rest. false: not any longer. Undefined: tracking that goes on is used, and goes on.
   */
  readonly track?: boolean;
  /** End QEMU after the save. */
  readonly quit: boolean;
  readonly level: number | 'none';
  /** Store everything, also what the generation before has already. */
  readonly full?: boolean;
  /** `raw` makes the raw memory file as well, which `restore --mode map` maps. */
  readonly layout?: Layout;
  /** The user will restore it with a command line of his own. */
  readonly ownCommandLine?: boolean;
  /** The user takes care of writable disks. */
  readonly disksExternal: boolean;
  /** Which generations of the name stay, the new one among them; all of them without it. */
  readonly keep?: RetentionPolicy;
  /** What captures at the same instant what a checkpoint does not hold, such as the disks. */
  readonly participants?: readonly InstantParticipant[];
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  /** What only some want to know. */
  readonly onDetail?: (text: string) => void;
  readonly signal: AbortSignal;
  /** The generation gets its number: an interrupt comes too late from here on. */
  readonly onCommit?: () => void;
}

export interface SaveReport {
  readonly name: string;
  readonly generation: number;
  readonly ramBytes: number;
  readonly nonZeroBytes: number;
  readonly storedBytes: number;
  /** Of `storedBytes`: what this save has written. The rest is shared with earlier generations. */
  readonly ownBytes: number;
  /** How long the VM stood still for the save; 0 when it was paused already. */
  readonly pauseMs: number;
  readonly totalMs: number;
  readonly iterations: number;
  readonly method: SaveMethod;
  readonly capture?: CaptureFigures;
  readonly deviceStateBytes: number;
  /** Why a restore without a command line of its own is refused. */
  readonly restoreProblems: NonNullable<Manifest['restoreProblems']>;
  /** What a restore does not bring back. */
  readonly lost: readonly string[];
  /** Whether a restore by this user needs no --trust-command-line. */
  readonly isSealed: boolean;
  /** What became of the older generations; null without `keep`, or when a message says why they all stay. */
  readonly pruned: PruneReport | null;
}

/**
 * @throws VmckptError USAGE when `keep` keeps nothing, QMP_UNREACHABLE and its like, VM_BUSY, STORE_LOCKED, DISKS_WRITABLE, MIGRATION_BLOCKED,
 * QEMU_UNSUPPORTED, what planLaunch() throws, MIGRATION_FAILED, NO_SPACE, QEMU_DIED, INTERRUPTED: the VM is as before, the store too
 */
export async function save(wished: SaveOptions): Promise<SaveReport> {
  const options = { ...wished, onMessage: saysOnce(wished.onMessage) };
  const { keep } = options;
  if (keep !== undefined) requirePolicy(keep);
  const saved = await saveByAnyMethod(options);
  return { ...saved, pruned: keep === undefined ? null : await pruneOlder({ ...options, keep }) };
}

async function saveByAnyMethod(options: SaveOptions): Promise<Omit<SaveReport, 'pruned'>> {
  try {
    return await saveOnce(options, { mayWatch: true });
  } catch (error) {
    if (isDamage(error) && options.full !== true) {
      options.onMessage(`Everything is stored, because the generation before is damaged: ${error.message}.`);
      return saveByAnyMethod({ ...options, full: true });
    }
    if (options.mayFallBack !== true) throw error;
    if (isCaptureRefused(error)) {
      options.onMessage(`QEMU’s own migration saves it, because ${error.message}.`);
      return saveByAnyMethod({ ...options, method: 'background-snapshot' });
    }
    if (!lacksUserfaultfd(error)) throw error;
    return saveOnce(options, { mayWatch: false });
  }
}

/** Of what the generation before shares: nothing else is read. */
function isDamage(error: unknown): error is VmckptError {
  return error instanceof VmckptError && error.kind === 'damaged';
}

function isCaptureRefused(error: unknown): error is VmckptError {
  return error instanceof VmckptError && error.code === 'CAPTURE_REFUSED';
}

async function saveOnce(
  options: SaveOptions,
  { mayWatch }: { readonly mayWatch: boolean },
): Promise<Omit<SaveReport, 'pruned'>> {
  const startMs = nowMs();
  const step = debugSteps('save');
  const { signal, onMessage } = options;
  const source = await openVm(options.vm, signal);
  const { qmp } = source;
  try {
    const journal = VmJournal.open(source.process);
    try {
      await putRight({ qmp, journal, onMessage });
      const seen = await source.describe();
      const { method, note } = chooseMethod(seen, options.method, {
        mayWatch,
        hasParticipants: (options.participants ?? []).length > 0,
      });
      if (note !== undefined) onMessage(note);
      refuseUnsafe(seen, { method, disksExternal: options.disksExternal });
      step(`the VM is inspected: ${method}`);
      const drift = await findDrift(qmp, seen, await tracesBefore(options, seen));
      // With a command line that gives what is now.
      const vm = { ...seen, args: [...drift.args] };
      const savedVm = savedVmOf(options.name, vm);
      const restoreProblems = await rehearse(vm, savedVm, options);
      accountForChanges(drift, options);
      await refuseBlockers(qmp, vm, adviceOnTransfer(source.process));
      step('the VM may be saved, and a restore would work as far as can be told');
      const store = await Store.openOrCreate(options.storeDir);
      const pending = await store.begin(options.name);
      try {
        const { manifest, result, isSealed, disks, dir } = await saveInto(pending, {
          options,
          qmp,
          journal,
          vm,
          savedVm,
          drift,
          method,
          restoreProblems,
        });
        step(`generation ${pending.generation} is stored: ${elided(manifest.sizes)}`);
        if (options.track === false) await endTracking(source.process);
        if (options.quit) {
          await source.end(onMessage);
          await noteEnd(dir, disks, onMessage);
        }
        if (options.quit && manifest.runState === 'paused' && manifest.vmState === undefined)
          onMessage('The VM was paused. It stays so when it is restored, unless with vmckpt restore --run.');
        return { ...reportOf(manifest, result, roundMs(nowMs() - startMs)), method, isSealed };
      } catch (error) {
        await pending.abort();
        throw error;
      }
    } finally {
      journal.close();
    }
  } finally {
    await source.close();
  }
}

/** The VM is saved, and gone: what fails now costs no more than a question. */
async function noteEnd(dir: string, disks: DiskWatch, onMessage: (text: string) => void): Promise<void> {
  try {
    await noteDisksAtEnd(dir, { then: disks.files, now: disks.look() });
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    onMessage(
      `QEMU wrote to a disk when it ended: a restore needs --disks-as-saved, because ${error.message}.`,
    );
  }
}

interface Work {
  readonly options: SaveOptions;
  readonly qmp: QmpClient;
  readonly journal: VmJournal;
  readonly vm: VmDescription;
  readonly savedVm: SavedVm;
  readonly drift: Drift;
  readonly method: SaveMethod;
  readonly restoreProblems: readonly Problem[];
}

/** @throws VmckptError as a restore would, when the VM would not run on to be saved otherwise */
async function rehearse(
  vm: VmDescription,
  savedVm: SavedVm,
  options: SaveOptions,
): Promise<readonly Problem[]> {
  const { storeDir, layout, ownCommandLine = false, quit, method, onMessage } = options;
  const problems = await rehearseRestore(vm, { savedVm, storeDir, isMapped: layout === 'raw' });
  if (problems.length === 0 || ownCommandLine) return problems;
  if (quit || method === 'stopped') refuseUnrestorable(problems);
  onMessage(`A restore would refuse this VM without a command line of your own: ${messagesOf(problems)}.`);
  return problems;
}

interface Saved {
  readonly manifest: Manifest;
  readonly result: MethodResult;
  readonly isSealed: boolean;
  readonly disks: DiskWatch;
  /** Of the generation. */
  readonly dir: string;
}

/** Borrows the VM's migration settings, saves, and gives them back; a save that failed also lets the VM run again. */
async function saveInto(pending: PendingGeneration, work: Work): Promise<Saved> {
  const { vm, method, options, restoreProblems } = work;
  const borrowed = method === 'capture' ? undefined : await noteSettings(work, method);
  const instant = new Instant(options.participants);
  const disks = new DiskWatch(vm);
  let saved = false;
  let tracking: Captured['tracking'];
  try {
    await instant.prepare();
    const { dir: pendingDir, formerDir, generation } = pending;
    const { maxPauseMs = MAX_PAUSE_MS } = options;
    const chain = chainOf(pending, options);
    const how = { ...options, ...work, instant, disks, maxPauseMs, dir: pendingDir, chain };
    const runsOn = options.method !== 'stopped';
    const transferred: Transferred & Partial<Captured> =
      borrowed === undefined ? await capture(how) : await lendAndTransfer({ ...how, runsOn }, borrowed);
    const { stream, writer, dirtyPages, result, state } = transferred;
    tracking = transferred.tracking;
    const parts = manifestParts({
      vm,
      savedVm: work.savedVm,
      drift: withLinks(work.drift, stream, options),
      method,
      generation,
      stream,
      state,
      diskFiles: disks.files,
      restoreProblems,
    });
    const manifest = await writer.finish(parts, stream.deviceState);
    const unsealed = await sealGeneration(pendingDir, { manifest, vm });
    if (unsealed !== undefined) options.onMessage(unsealed);
    const isAlike = result.capture?.tracked === true && isRoutine(generation);
    const alikeId = isAlike ? manifest.parent : undefined;
    const problem = await teachWorkingSet({ dir: pendingDir, formerDir, dirtyPages, alikeId });
    if (problem !== undefined) options.onMessage(`Restores begin without a prediction: ${problem}.`);
    if (options.layout === 'raw') await writeRawMemory(pendingDir, { signal: options.signal });
    await parkAt('committing');
    const dir = await pending.commit(options);
    saved = true;
    await parkAt('keeping');
    await keepTracking(tracking, manifest, options);
    return { manifest, result, isSealed: unsealed === undefined, disks, dir };
  } finally {
    try {
      if (!saved) await tracking?.lose(options.onMessage);
      await settle(work, { note: borrowed?.note, saved });
    } finally {
      await instant.release();
    }
  }
}

function chainOf({ chain, name, generation }: PendingGeneration, { full, onMessage }: SaveOptions): Chain {
  if (full === true) return { ...chain, formerDir: undefined };
  const onDamage = ({ message }: VmckptError): void =>
    onMessage(`Everything is stored, because ${name}@${generation - 1} is damaged: ${message}.`);
  return { ...chain, onDamage };
}

/** Of a capture, outside its pause. */
const NOTHING_PAUSED: JournalNote = {
  method: 'capture',
  wasRunning: false,
  capabilities: {},
  parameters: {},
};

/** Gives the VM back, if it still lives. @throws VmckptError QEMU_DIED when its end has cost the checkpoint */
async function settle(
  { options, qmp, journal, vm }: Work,
  {
    note = journal.read() ?? NOTHING_PAUSED,
    saved,
  }: { readonly note?: JournalNote | undefined; readonly saved: boolean },
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
      hint: 'Nothing of this save remains; earlier generations are unharmed.',
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

function reportOf(
  manifest: Manifest,
  result: MethodResult,
  totalMs: number,
): Omit<SaveReport, 'isSealed' | 'method' | 'pruned'> {
  const { name, generation, sizes, restoreProblems = [], lost = [] } = manifest;
  const { ramBytes, nonZeroBytes, storedBytes, ownBytes, deviceStateBytes } = sizes;
  return {
    name,
    generation,
    ramBytes,
    nonZeroBytes,
    storedBytes,
    ownBytes,
    totalMs,
    ...result,
    deviceStateBytes,
    restoreProblems,
    lost,
  };
}
