/**
 * The story of `restore --mode map`. QEMU's main memory is a private mapping of the generation's raw memory file, so
 * only the devices and the small RAM blocks are loaded. This process does that itself. Afterwards no process of
 * vmckpt is needed: QEMU holds the generation through an inherited descriptor.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { FileExtents } from '../checkpoint/file-extents.js';
import type { Manifest } from '../checkpoint/manifest.js';
import { requireRawMemory } from '../checkpoint/raw-memory.js';
import { CheckpointReader } from '../checkpoint/reader.js';
import { VmckptError } from '../errors.js';
import { NO_HOLES_PATH, requireAddon } from '../native/index.js';
import { isolate } from '../qemu/networks.js';
import { requireCompatible } from '../qemu/compatibility.js';
import type { LaunchedQemu } from '../qemu/launch.js';
import { opensMemoryReadOnly, type MappedMemory } from '../qemu/mapped-memory.js';
import { holdGeneration, type GenerationUse } from '../store/generation-use.js';
import { readMachineState, sendWholeMachine } from '../transfer/whole-machine.js';
import { nowMs } from '../timeline/clock.js';
import { leaveControlGroup } from '../util/leave-control-group.js';
import { parkAt } from '../util/park.js';
import { identifyProcess } from '../util/process-identity.js';
import { beginAftercare } from '../aftercare/begin.js';
import { connectTo } from '../qemu/migration-socket.js';
import { endOfQemu, listenForMachine, runWhenLoaded } from '../qemu/incoming.js';
import { isCutOff, LAST_WORDS_MS } from './loading-failure.js';
import { requireSameDisks } from './same-disks.js';
import { compareSettings, replaySettings } from './settings.js';
import { plainQemu } from './machine-host.js';
import { putOnRecord } from './new-record.js';
import { buildReport, type RestoreReport } from './report.js';
import { undo, type Attempt, type PlannedAttempt } from './attempt.js';
import type { VmFolder } from '../vms/folder.js';

/** A mapping restore that is ready to start. */
interface MappedAttempt extends PlannedAttempt {
  readonly reader: CheckpointReader;
  readonly memory: MappedMemory;
  readonly use: GenerationUse;
}

/** @throws VmckptError NO_RAW_MEMORY, RAW_MEMORY_CHANGED, MAP_REFUSED, and as restore() */
export async function restoreMapped(attempt: Attempt): Promise<RestoreReport> {
  const { located, manifest, folder, claim } = attempt;
  let isLoaded = false;
  const onLoaded = () => void (isLoaded = true);
  let use: GenerationUse | undefined;
  let reader: CheckpointReader | undefined;
  try {
    use = holdGeneration(located.dir);
    reader = await CheckpointReader.open(located.dir);
    const memory = memoryToMap(located.dir, manifest);
    const planned = putOnRecord(attempt, await plainQemu.plan(attempt, memory));
    return await startAndLoad({ ...planned, onLoaded, reader, memory, use });
  } catch (error) {
    if (!isLoaded) {
      folder.remove();
      claim.release();
    }
    throw error;
  } finally {
    use?.release();
    reader?.close();
  }
}

/** The saver's version decides how QEMU opens the file: the restoring QEMU is never older. */
function memoryToMap(dir: string, manifest: Manifest): MappedMemory {
  const { file, block, sizeBytes } = requireRawMemory(dir, manifest);
  const readOnly = opensMemoryReadOnly(manifest.qemu.version);
  if (!readOnly) requireAddon('--mode map with a QEMU before 8.2');
  return { file, block, sizeBytes, readOnly };
}

async function startAndLoad(attempt: MappedAttempt): Promise<RestoreReport> {
  const { options, manifest, folder, plan, record, verbStartMs } = attempt;
  const { memory, use } = attempt;
  const { moved, aftercare, runs } = plan;
  // A QEMU that opens the file for writing must not be able to change it.
  const qemu = await plainQemu.start(attempt, {
    ...(!memory.readOnly && { through: NO_HOLES_PATH }),
    inheritedFds: use.fd === undefined ? [] : [use.fd],
  });
  let isLoaded = false;
  try {
    await parkAt('loading');
    const resumedAtMs = await load(attempt, qemu);
    isLoaded = true;
    attempt.onLoaded();
    use.leaveTo(qemu.pid);
    const running = { ...record, qemu: identifyProcess(qemu.pid)! };
    folder.write(running);
    await compareSettings(qemu.qmp, attempt);
    await qemu.qmp.close();
    if (runs) beginAftercare(folder.aftercareFiles, aftercare);
    const stays = await leaveControlGroup();
    if (stays !== undefined) options.onMessage(stays);
    const times = { verbStartMs, spawnedAtMs: qemu.spawnedAtMs, qemuReadyMs: qemu.qemuReadyMs, resumedAtMs };
    return buildReport({ record: running, manifest, moved, times, result: undefined });
  } catch (error) {
    const reason = await explain(error, qemu, folder.file('qemu.log'));
    if (!isLoaded) await undo(qemu);
    throw reason;
  } finally {
    await qemu.qmp.close();
  }
}

/** Returns when the machine runs (wall clock, ms), or is loaded and stays paused. */
async function load(
  { options, manifest, folder, reader, memory, plan }: MappedAttempt,
  qemu: LaunchedQemu,
): Promise<number | undefined> {
  const { qmp } = qemu;
  const { signal } = options;
  const socket = folder.file('migration.sock');
  const [state] = await Promise.all([
    readMachineState(reader),
    listenForMachine(qmp, { mode: 'eager', isFilledDirectly: false, socket }),
    requireCompatible(qmp, manifest, { isOwnCommandLine: options.qemuArgs !== undefined }),
    isolate(qmp, plan.aftercare),
    replaySettings(qmp, { manifest, options }),
    requireSameDisks(qmp, { manifest, options }),
  ]);
  const extents = new FileExtents(reader);
  const [resumedAtMs] = await Promise.all([
    runWhenLoaded(qmp, { runs: plan.runs, signal, onLoaded: () => noteLoaded(folder, qemu) }),
    sendWholeMachine({
      catalog: reader,
      extents,
      out: connectTo(socket, { readable: true }),
      state,
      filled: [reader.layout.byName(memory.block)!],
      signal,
    }).finally(() => extents.close()),
  ]);
  return resumedAtMs;
}

/** From here on the VM lives, whatever happens to this process. Nothing is left to transfer. */
function noteLoaded(folder: VmFolder, { pid }: LaunchedQemu): void {
  const qemu = identifyProcess(pid);
  if (qemu === undefined) return;
  folder.writeTransfer({ process: qemu, status: 'complete', loaded: true, completeAtMs: nowMs() });
}

/** A QEMU that ends closes its sockets. Its log gives a better reason than that. */
async function explain(error: unknown, { exited }: LaunchedQemu, logPath: string): Promise<unknown> {
  if (!isCutOff(error) && !(error instanceof VmckptError && error.kind === 'failed')) return error;
  const end = await Promise.race([exited, sleep(LAST_WORDS_MS)]);
  return end === undefined ? error : endOfQemu(end, logPath);
}
