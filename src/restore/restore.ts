/**
 * The story of a restore: find the checkpoint, start QEMU and the transfer process side by side, let the VM run,
 * fill its memory. Until the VM runs a failure leaves nothing behind; from then on the VM is left alone.
 */
import { readManifest, requireMachine, type Manifest } from '../checkpoint/manifest.js';
import { refuseCollisions } from '../qemu/collisions.js';
import { requireCompatible } from '../qemu/compatibility.js';
import { launchQemu, type LaunchedQemu } from '../qemu/launch.js';
import { requireName } from '../store/reference.js';
import { Store } from '../store/store.js';
import { nowMs } from '../timeline/clock.js';
import { withDeadline } from '../util/deadline.js';
import { identifyProcess } from '../util/process-identity.js';
import { chooseDirectMemory, type PathWish } from './direct-choice.js';
import {
  EAGER_TIMEOUT_MS,
  explainFailure,
  failedWhileLoading,
  listenForMachine,
  runWhenLoaded,
  type IncomingMode,
} from './incoming.js';
import type { PrefetchWishes } from './prediction.js';
import { planLaunch, type LaunchPlan, type LaunchWishes } from './launch-plan.js';
import { buildReport, type RestoreReport } from './report.js';
import { superviseTransfer } from './supervise.js';
import { Keeper } from './keeper.js';
import { beginAftercare, isolate } from './aftercare.js';
import type { TransferOrder } from './transfer-job.js';
import { endAbandoned } from './stop.js';
import { claimFolder, type RestoreMode, type VmFolder, type VmRecord } from './vm-record.js';

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
  readonly prefetch: PrefetchWishes;
  readonly path: PathWish;
  /** Return when the VM runs, not when its memory is complete. */
  readonly detach: boolean;
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
  readonly keeper: Keeper;
  readonly verbStartMs: number;
}

/**
 * @throws VmckptError NO_CHECKPOINT, COMMAND_LINE_UNTRUSTED, COLLISION, QEMU_FAILED_TO_START, QEMU_INCOMPATIBLE,
 * EXTENT_DAMAGED, INTERRUPTED and others
 */
export async function restore(options: RestoreOptions): Promise<RestoreReport> {
  const verbStartMs = nowMs();
  const store = await Store.open(options.storeDir, { trustForeign: options.trustCommandLine });
  const { name, generation, dir } = await store.locate(options.reference);
  const manifest = readManifest(dir);
  requireMachine(manifest);
  const { vmName = name, identity = 'original' } = options;
  requireName(vmName);
  if (await endAbandoned(vmName))
    options.onMessage('An earlier restore died before its VM ran: what it had left is cleared away.');
  const folder = claimFolder(vmName);
  // First of all: it opens the checkpoint while everything else is prepared.
  const keeper = Keeper.start(folder, dir, options.mode === 'prefetch' ? options.prefetch : undefined);
  try {
    const plan = await planLaunch(manifest, folder, options);
    for (const note of plan.notes) options.onMessage(note);
    await refuseCollisions(plan.args, {
      original: identity === 'original' ? manifest.qemu.process : undefined,
      ramBytes: manifest.sizes.ramBytes,
      cwd: plan.cwd,
    });
    const record: VmRecord = {
      name: vmName,
      ...(vmName !== name && { checkpoint: name }),
      generation,
      generationDir: dir,
      mode: options.mode,
      preempt: 'off',
      capabilities: [],
      ramBytes: manifest.sizes.ramBytes,
      restoredAt: new Date(verbStartMs).toISOString(),
      verb: identifyProcess(process.pid)!,
      ...(keeper.identity && { keeper: keeper.identity }),
      qmpSocket: plan.qmpSocket,
      ...(plan.consoleSocket !== undefined && { consoleSocket: plan.consoleSocket }),
    };
    folder.write(record);
    return await startAndFill({ options, manifest, folder, plan, record, keeper, verbStartMs });
  } catch (error) {
    if (folder.read()?.qemu === undefined) {
      await keeper.kill();
      folder.remove();
    }
    throw error;
  } finally {
    keeper.release();
  }
}

async function startAndFill(attempt: Attempt): Promise<RestoreReport> {
  const { options, manifest, folder, keeper, verbStartMs } = attempt;
  const { signal, detach } = options;
  const { moved, aftercare, runs } = attempt.plan;
  const qemu = await launchQemu({
    ...attempt.plan,
    logPath: folder.file('qemu.log'),
    qmpSocket: folder.file('qmp.sock'),
    signal,
    start: (program) => keeper.startQemu(program),
  });
  let record = attempt.record;
  try {
    const [incoming] = await Promise.all([
      prepareMemory(attempt, qemu),
      requireCompatible(qemu.qmp, manifest),
      isolate(qemu.qmp, aftercare),
    ]);
    const order = { ...incoming, runs };
    const { preempt, capabilities, memory } = incoming;
    const known = { ...record, preempt, capabilities, ...(memory && { memory }) };
    // Before the VM can run: whoever takes it over when we are killed has to know it.
    folder.write(known);
    const resumedAtMs = await letRun(attempt, qemu, order);
    record = { ...known, qemu: identifyProcess(qemu.pid)! };
    folder.write(record);
    await qemu.qmp.close();
    if (runs) beginAftercare(folder, aftercare);
    const times = { verbStartMs, spawnedAtMs: qemu.spawnedAtMs, qemuReadyMs: qemu.qemuReadyMs, resumedAtMs };
    if (detach) return buildReport({ record, manifest, moved, times, result: undefined });
    const totalBytes = manifest.sizes.nonZeroBytes;
    const { transfer } = keeper;
    const result = await superviseTransfer({
      folder,
      transfer,
      qemuEnded: qemu.exited,
      totalBytes,
      ...options,
    });
    return buildReport({ record, manifest, moved, times, result });
  } catch (error) {
    const logPath = folder.file('qemu.log');
    const reason = await explainFailure(error, { qemu, transfer: keeper.transfer, logPath });
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
  const { memory, whyNot } = await chooseDirectMemory(qmp, {
    mode,
    path,
    args: plan.args,
    blocks: manifest.ram.blocks,
  });
  if (whyNot !== undefined)
    options.onMessage(`Memory goes through QEMU's stream, which is slower: ${whyNot}.`);
  return listenForMachine(qmp, { mode, memory, socket: folder.file('migration.sock') });
}

/** Lets the transfer process load the machine into QEMU; returns when it runs (ms of the wall clock), or is loaded and stays paused. */
async function letRun(
  { options, folder, plan, keeper: { transfer } }: Attempt,
  qemu: LaunchedQemu,
  order: TransferOrder,
): Promise<number | undefined> {
  const { signal, mode } = options;
  const resumed = async (): Promise<number | undefined> => {
    if (mode === 'eager') return runWhenLoaded(qemu.qmp, plan.runs, signal);
    if (!plan.runs) return void (await transfer.machineLoaded);
    return (await qemu.qmp.waitForEvent(['RESUME'], { timeoutMs: RUN_TIMEOUT_MS, signal })).timestampMs;
  };
  const running = resumed();
  running.catch(() => undefined); // raced below, once the transfer is connected
  await transfer.connect(order);
  const failed = failedWhileLoading({ qemu, transfer, logPath: folder.file('qemu.log') });
  return withDeadline(Promise.race([running, failed]), {
    what: 'the VM to run',
    timeoutMs: mode === 'eager' ? EAGER_TIMEOUT_MS : RUN_TIMEOUT_MS,
    signal,
  });
}

/** Ends what this restore has started; the checkpoint is as it was. */
async function undo(qemu: LaunchedQemu): Promise<void> {
  if (identifyProcess(qemu.pid) !== undefined) process.kill(qemu.pid, 'SIGKILL');
  await qemu.exited;
}
