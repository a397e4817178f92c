/**
 * A restore through a serving process. QEMU is started next to it, prepared, loaded, and run; then its memory is
 * filled. The messages between the processes: serving-protocol/messages.ts.
 */
import { isolate } from '../qemu/networks.js';
import { requireCompatible } from '../qemu/compatibility.js';
import { EAGER_TIMEOUT_MS, listenForMachine, runWhenLoaded } from '../qemu/incoming.js';
import type { LaunchedQemu } from '../qemu/launch.js';
import { findHugePages } from '../qemu/memory-pages.js';
import type { ServingOrder } from '../serving-protocol/order.js';
import { debugSteps } from '../util/debug.js';
import { withDeadline } from '../util/deadline.js';
import { leaveControlGroup } from '../util/leave-control-group.js';
import { identifyProcess } from '../util/process-identity.js';
import { undo, type PlannedAttempt } from './attempt.js';
import { explainFailure, failedWhileLoading, runsUnlessFailed } from './loading-failure.js';
import { plainQemu } from './machine-host.js';
import { chooseDirectMemory } from './memory-path.js';
import type { ProcessParent } from './parents/parent.js';
import { buildReport, type RestoreReport } from './report.js';
import { requireSameDisks } from './same-disks.js';
import { compareSettings, replaySettings } from './settings.js';
import { superviseTransfer } from './supervise.js';

const RUN_TIMEOUT_MS = 120_000;

export interface ServedAttempt extends PlannedAttempt {
  readonly parent: ProcessParent;
}

/** Starts QEMU, has the serving process load it, and follows its memory unless `detach` is set. */
export async function startAndFill(attempt: ServedAttempt): Promise<RestoreReport> {
  const { options, manifest, folder, parent, verbStartMs } = attempt;
  const { signal, detach } = options;
  const { moved, aftercare, runs } = attempt.plan;
  const qemu = await plainQemu.start(attempt, { start: (program) => parent.startQemu(program) });
  const step = debugSteps('restore');
  step(`QEMU ${qemu.pid} answers, ${qemu.qemuReadyMs.toFixed(1)} ms after its start`);
  const departure = options.identity === 'trial' ? undefined : leaveControlGroup();
  let { record } = attempt;
  let isLoaded = false;
  try {
    parent.server.noteQemu();
    const [incoming] = await Promise.all([
      prepareMemory(attempt, qemu),
      requireCompatible(qemu.qmp, manifest, { isOwnCommandLine: options.qemuArgs !== undefined }),
      isolate(qemu.qmp, aftercare),
      replaySettings(qemu.qmp, attempt),
      requireSameDisks(qemu.qmp, attempt),
    ]);
    step(`memory is prepared: ${incoming.memory ? 'direct' : 'through the stream'}`);
    const { background = 'at-once', exactly = false, exercise } = options;
    const order: ServingOrder = { ...incoming, runs, background, exactly, ...(runs && { aftercare }) };
    record = { ...record, order };
    // Before the VM can run: if this process is killed, a successor needs the record.
    folder.write(record);
    const resumedAtMs = await letRun(attempt, qemu, order);
    isLoaded = true;
    attempt.onLoaded();
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
    const transfer = parent.keepServing();
    const exercised = exercise?.().then(() => parent.server.fill());
    const { onMessage, onProgress } = options;
    const supervision = {
      folder,
      transfer,
      qemuEnded: qemu.exited,
      totalBytes,
      onMessage,
      onProgress,
      signal,
    };
    const [result] = await Promise.all([superviseTransfer(supervision), exercised]);
    step('all memory is in place');
    return buildReport({ record, manifest, moved, times, result });
  } catch (error) {
    const logPath = folder.file('qemu.log');
    const reason = await explainFailure(error, { qemu, server: parent.server, logPath });
    if (!isLoaded) await undo(qemu);
    throw reason;
  } finally {
    await qemu.qmp.close();
  }
}

/** Decides how memory will come, and makes QEMU listen for it. */
async function prepareMemory(
  { options, manifest, folder, plan }: ServedAttempt,
  { qmp }: LaunchedQemu,
): Promise<Omit<ServingOrder, 'runs' | 'background' | 'exactly' | 'aftercare'>> {
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
  const socket = folder.file('migration.sock');
  const incoming = await listenForMachine(qmp, { mode, isFilledDirectly: memory !== undefined, socket });
  return { ...incoming, hugePages, ...(memory && { memory }) };
}

/**
 * The serving process loads the machine into QEMU. Returns when it runs (wall clock, ms), or is loaded and stays
 * paused.
 */
async function letRun(
  { options, folder, plan, parent: { server } }: ServedAttempt,
  qemu: LaunchedQemu,
  order: ServingOrder,
): Promise<number | undefined> {
  const { signal, mode } = options;
  const resumed = async (): Promise<number | undefined> => {
    if (mode === 'eager') return runWhenLoaded(qemu.qmp, { runs: plan.runs, signal });
    if (!plan.runs) return void (await server.machineLoaded);
    return (await qemu.qmp.waitForEvent(['RESUME'], { timeoutMs: RUN_TIMEOUT_MS, signal })).timestampMs;
  };
  const running = resumed();
  running.catch(() => undefined); // raced below, once the server has its order
  const failed = failedWhileLoading({ qemu, server, logPath: folder.file('qemu.log') });
  failed.catch(() => undefined); // raced below, too
  await Promise.race([server.give(order), failed]);
  const ran =
    mode === 'eager'
      ? Promise.race([running, failed])
      : runsUnlessFailed(running, { failed, machineLoaded: server.machineLoaded });
  return withDeadline(ran, {
    what: 'the VM to run',
    timeoutMs: mode === 'eager' ? EAGER_TIMEOUT_MS : RUN_TIMEOUT_MS,
    signal,
  });
}
