/**
 * The story of a restore: find the checkpoint, start QEMU and the serving process side by side, let the VM run,
 * fill its memory. Until the VM runs a failure leaves nothing behind; from then on the VM is left alone.
 */
import { requireMachine, type Manifest } from '../checkpoint/manifest.js';
import { isolate } from '../qemu/networks.js';
import { planLaunch, type LaunchPlan, type LaunchWishes } from '../launch/launch-plan.js';
import { refuseCollisions } from '../qemu/collisions.js';
import { requireCompatible } from '../qemu/compatibility.js';
import { requireRoom, type RoomWish } from '../qemu/memory-room.js';
import { OnDemandRefusal, refuseOnDemand } from '../qemu/on-demand.js';
import { launchQemu, type LaunchedQemu } from '../qemu/launch.js';
import { lacksUserfaultfd } from '../qemu/migration-control.js';
import { requireName } from '../store/reference.js';
import { readSealedManifest } from '../store/seal.js';
import { Store } from '../store/store.js';
import { nowMs } from '../timeline/clock.js';
import { debugSteps } from '../util/debug.js';
import { withDeadline } from '../util/deadline.js';
import { leaveControlGroup } from '../util/leave-control-group.js';
import { identifyProcess } from '../util/process-identity.js';
import { asRoot } from '../util/rights.js';
import { saysOnce } from '../util/says-once.js';
import { killAtOnce } from '../vms/processes.js';
import { chooseDirectMemory, type PathWish } from './memory-path.js';
import { findHugePages } from '../qemu/memory-pages.js';
import {
  EAGER_TIMEOUT_MS,
  explainFailure,
  failedWhileLoading,
  listenForMachine,
  runsUnlessFailed,
  runWhenLoaded,
  type IncomingMode,
} from './incoming.js';
import type { PrefetchWishes } from '../working-set/plan.js';
import { readGenerationAhead } from './read-ahead.js';
import { restoreMapped } from './by-mapping.js';
import { makePlaces } from './make-places.js';
import { requireSameDisks } from './same-disks.js';
import { compareSettings, replaySettings } from './settings.js';
import { newRecord } from './new-record.js';
import { buildReport, type RestoreReport } from './report.js';
import { superviseTransfer } from './supervise.js';
import { startGuardian, type Guardian } from './parents/parent.js';
import type { Background, ServingOrder } from '../serving-protocol/order.js';
import { endAbandoned } from '../vms/stop.js';
import { claimFolder } from '../vms/claim.js';
import type { RestoreMode, VmRecord } from '../vms/records.js';
import type { VmFolder } from '../vms/folder.js';

export type { RestoreReport } from './report.js';

const RUN_TIMEOUT_MS = 120_000;

export interface RestoreOptions extends LaunchWishes {
  readonly storeDir: string;
  /** NAME or NAME@GENERATION. */
  readonly reference: string;
  /** How the VM is called: like its checkpoint by default. */
  readonly vmName?: string | undefined;
  /** `prefetch` is lazy, with what is probably touched first sent first. */
  readonly mode: RestoreMode;
  /** Where memory cannot come on demand, restore eagerly instead. */
  readonly mayFallBack?: boolean;
  readonly prefetch: PrefetchWishes;
  readonly path: PathWish;
  /** `at-once` by default. */
  readonly background?: Background;
  /** Every page is asked for by itself, as far as that can be had: slower, and tells what is touched. */
  readonly exactly?: boolean;
  /** `required` by default. */
  readonly memoryRoom?: RoomWish;
  /** Return when the VM runs, not when its memory is complete. */
  readonly detach: boolean;
  /** Begins when the VM runs, and the restore waits for its end; a background that waits to be told begins then. */
  readonly exercise?: () => Promise<void>;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

/** A restore under way, from the started processes on. */
interface Attempt {
  readonly options: RestoreOptions;
  readonly manifest: Manifest;
  readonly folder: VmFolder;
  readonly plan: LaunchPlan;
  readonly record: VmRecord;
  readonly guardian: Guardian;
  readonly verbStartMs: number;
}

/**
 * @throws VmckptError NO_CHECKPOINT, COMMAND_LINE_UNTRUSTED, COLLISION, QEMU_FAILED_TO_START, QEMU_INCOMPATIBLE,
 * EXTENT_DAMAGED, INTERRUPTED and others
 */
export async function restore(options: RestoreOptions): Promise<RestoreReport> {
  const onMessage = saysOnce(options.onMessage);
  try {
    return await restoreOnce({ ...options, onMessage });
  } catch (error) {
    const why = options.mayFallBack === true ? whyEagerly(error) : undefined;
    if (why === undefined) throw error;
    onMessage(why);
    return restoreOnce({ ...options, onMessage, mode: 'eager' });
  }
}

/** What to tell about a restore that cannot be lazy, and can be eager. */
function whyEagerly(error: unknown): string | undefined {
  const what = 'the VM runs when all of its memory is there (--mode eager).';
  if (error instanceof OnDemandRefusal) return `${error.message}; ${what}`;
  if (!lacksUserfaultfd(error)) return undefined;
  return `QEMU may not use userfaultfd: ${what} ${asRoot('Run it', 'CAP_SYS_PTRACE')}, or set vm.unprivileged_userfaultfd=1 (sysctl), for a VM that runs at once.`;
}

async function restoreOnce(options: RestoreOptions): Promise<RestoreReport> {
  const verbStartMs = nowMs();
  const step = debugSteps('restore');
  const store = await Store.open(options.storeDir, { trustForeign: options.trustCommandLine });
  const located = await store.locate(options.reference);
  const { name, dir } = located;
  const { manifest, judgeSeal } = readSealedManifest(dir);
  requireMachine(manifest);
  step(`found ${dir}, ${options.mode}`);
  const { vmName = name, identity = 'original' } = options;
  requireName(vmName);
  if (await endAbandoned(vmName))
    options.onMessage('An earlier restore died before its VM ran; its remains have been removed.');
  const folder = claimFolder(vmName);
  if (options.mode === 'map')
    return restoreMapped({ options, located, manifest, judgeSeal, folder, verbStartMs });
  // First of all: it opens the checkpoint while everything else is prepared.
  const wishes = options.mode === 'prefetch' ? options.prefetch : undefined;
  const guardian = startGuardian({ folder, generationDir: dir, wishes });
  readGenerationAhead(dir, options.mode);
  try {
    const plan = await planLaunch({ manifest, judgeSeal, directory: folder.directory }, options);
    makePlaces(folder, plan);
    for (const note of plan.notes) options.onMessage(note);
    if (options.mode !== 'eager') refuseOnDemand(plan.args, plan.cwd);
    await refuseCollisions(plan.args, {
      original: identity === 'original' ? manifest.qemu.process : undefined,
      cwd: plan.cwd,
    });
    const { ramBytes, nonZeroBytes: dataBytes } = manifest.sizes;
    const need = { vmCount: 1, ramBytes, dataBytes, isMapped: false, args: plan.args, cwd: plan.cwd };
    requireRoom(need, options.memoryRoom ?? 'required', options.onMessage);
    const record: VmRecord = {
      ...newRecord({ vmName, located, manifest, mode: options.mode, plan, verbStartMs }),
      ...(guardian.identity && { keeper: guardian.identity }),
    };
    folder.write(record);
    step('QEMU is planned');
    return await startAndFill({ options, manifest, folder, plan, record, guardian, verbStartMs });
  } catch (error) {
    if (folder.read()?.qemu === undefined) {
      await guardian.kill();
      folder.remove();
    }
    throw error;
  } finally {
    guardian.release();
  }
}

async function startAndFill(attempt: Attempt): Promise<RestoreReport> {
  const { options, manifest, folder, guardian, verbStartMs } = attempt;
  const { signal, detach } = options;
  const { moved, aftercare, runs } = attempt.plan;
  const qemu = await launchQemu({
    ...attempt.plan,
    logPath: folder.file('qemu.log'),
    qmpSocket: folder.file('qmp.sock'),
    signal,
    start: (program) => guardian.startQemu(program),
  });
  const step = debugSteps('restore');
  step(`QEMU ${qemu.pid} answers, ${qemu.qemuReadyMs.toFixed(1)} ms after its start`);
  const departure = options.identity === 'trial' ? undefined : leaveControlGroup();
  let record = attempt.record;
  try {
    guardian.transfer.noteQemu();
    const [incoming] = await Promise.all([
      prepareMemory(attempt, qemu),
      requireCompatible(qemu.qmp, manifest),
      isolate(qemu.qmp, aftercare),
      replaySettings(qemu.qmp, attempt),
      requireSameDisks(qemu.qmp, attempt),
    ]);
    step(`memory is prepared: ${incoming.memory ? 'direct' : 'through the stream'}`);
    const { background = 'at-once', exactly = false, exercise } = options;
    const order: ServingOrder = { ...incoming, runs, background, exactly, ...(runs && { aftercare }) };
    record = { ...record, order };
    // Before the VM can run: a successor has to know it when we are killed.
    folder.write(record);
    const resumedAtMs = await letRun(attempt, qemu, order);
    step('the VM runs');
    record = { ...record, qemu: identifyProcess(qemu.pid)! };
    folder.write(record);
    await compareSettings(qemu.qmp, attempt);
    await qemu.qmp.close();
    const stays = await departure;
    if (stays !== undefined) options.onMessage(stays);
    const times = { verbStartMs, spawnedAtMs: qemu.spawnedAtMs, qemuReadyMs: qemu.qemuReadyMs, resumedAtMs };
    if (detach) return buildReport({ record, manifest, moved, times, result: undefined });
    const totalBytes = manifest.sizes.nonZeroBytes;
    const exercised = exercise?.().then(() => guardian.transfer.fill());
    const supervision = { folder, transfer: guardian.served, qemuEnded: qemu.exited, totalBytes };
    const [result] = await Promise.all([superviseTransfer({ ...supervision, ...options }), exercised]);
    step('all memory is in place');
    return buildReport({ record, manifest, moved, times, result });
  } catch (error) {
    const logPath = folder.file('qemu.log');
    const reason = await explainFailure(error, { qemu, transfer: guardian.transfer, logPath });
    if (record.qemu === undefined) await undo(qemu);
    throw reason;
  } finally {
    await qemu.qmp.close();
  }
}

/** Decides how memory will come, and lets QEMU listen for it. */
async function prepareMemory(
  { options, manifest, folder, plan }: Attempt,
  { qmp }: LaunchedQemu,
): Promise<IncomingMode> {
  const { path } = options;
  const mode = options.mode === 'eager' ? 'eager' : 'lazy';
  const [hugePages, { memory, whyNot }] = await Promise.all([
    findHugePages(qmp, mode),
    chooseDirectMemory(qmp, {
      mode,
      path,
      args: plan.args,
      blocks: manifest.ram.blocks,
      backendIds: manifest.memoryBackends.map(({ id }) => id),
    }),
  ]);
  if (whyNot !== undefined)
    options.onMessage(`Memory goes through QEMU's stream, which is slower: ${whyNot}.`);
  return listenForMachine(qmp, { mode, memory, hugePages, socket: folder.file('migration.sock') });
}

/** Lets the serving process load the machine into QEMU; returns when it runs (ms of the wall clock), or is loaded and stays paused. */
async function letRun(
  { options, folder, plan, guardian: { transfer } }: Attempt,
  qemu: LaunchedQemu,
  order: ServingOrder,
): Promise<number | undefined> {
  const { signal, mode } = options;
  const resumed = async (): Promise<number | undefined> => {
    if (mode === 'eager') return runWhenLoaded(qemu.qmp, { runs: plan.runs, signal });
    if (!plan.runs) return void (await transfer.machineLoaded);
    return (await qemu.qmp.waitForEvent(['RESUME'], { timeoutMs: RUN_TIMEOUT_MS, signal })).timestampMs;
  };
  const running = resumed();
  running.catch(() => undefined); // raced below, once the transfer is connected
  const failed = failedWhileLoading({ qemu, transfer, logPath: folder.file('qemu.log') });
  failed.catch(() => undefined); // raced below, too
  await Promise.race([transfer.give(order), failed]);
  const ran =
    mode === 'eager'
      ? Promise.race([running, failed])
      : runsUnlessFailed(running, { failed, machineLoaded: transfer.machineLoaded });
  return withDeadline(ran, {
    what: 'the VM to run',
    timeoutMs: mode === 'eager' ? EAGER_TIMEOUT_MS : RUN_TIMEOUT_MS,
    signal,
  });
}

/** Ends what this restore has started; the checkpoint is as it was. */
async function undo(qemu: LaunchedQemu): Promise<void> {
  killAtOnce(qemu.pid);
  await qemu.exited;
}
