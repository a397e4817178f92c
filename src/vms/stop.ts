/**
 * Ends a VM that vmckpt has restored: QEMU, its serving process, and their folder. A QEMU that waits for a page does
 * not answer, so the polite request has a short deadline, and signals follow.
 */
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import { QmpClient } from '../qemu/qmp.js';
import { clearStaleUses } from '../store/generation-use.js';
import { isAlive, processesOfSession, untilEnded, type ProcessIdentity } from '../util/process-identity.js';
import { endProcess, SIGKILL, SIGTERM } from './processes.js';
import { beingRestored, NameClaim } from './claim.js';
import { requireVm, VmFolder } from './folder.js';
import { statusOf, type VmStatus } from './status.js';
import type { VmRecord } from './records.js';

const POLITE_TIMEOUT_MS = 2_000;
const KILL_TIMEOUT_MS = 10_000;
const SETTLES_WITHIN_MS = 5_000;
const LOOK_EVERY_MS = 20;

export interface StopReport {
  readonly name: string;
  /** Null when QEMU had already ended. */
  readonly qemuPid: number | null;
  readonly endedBy: 'quit' | 'SIGTERM' | 'SIGKILL' | null;
}

/** @throws VmckptError NO_SUCH_VM, VM_BUSY while it is being restored, TIMEOUT when a process cannot be killed */
export async function stopVm(name: string): Promise<StopReport> {
  await settled(requireVm(name).folder);
  const { folder, record } = requireVm(name);
  const isStarting = statusOf(record, folder.readTransfer()) === 'starting';
  // A restore without a verb should be over by now: what is left hangs.
  if (isStarting && isAlive(record.verb)) throw beingRestored(name, record.verb.pid);
  const { qemu } = record;
  const endedBy = qemu === undefined || !isAlive(qemu) ? null : await endQemu(qemu, folder);
  await endTransfer(folder);
  // The keeper may have started another process in the meantime. Once it has ended, it starts none.
  if (record.keeper !== undefined) await endSession(record.keeper);
  await endTransfer(folder);
  clearStaleUses(path.dirname(record.generationDir));
  forget(folder, record);
  return { name, qemuPid: endedBy === null ? null : qemu!.pid, endedBy };
}

/** Removes the folder, unless another restore has taken the name since. */
function forget(folder: VmFolder, { restoredAt }: VmRecord): void {
  const claim = NameClaim.take(folder.name);
  if (claim === undefined) return;
  const now = folder.read();
  if (now === undefined || now.restoredAt === restoredAt) folder.remove();
  claim.release();
}

async function endTransfer(folder: VmFolder): Promise<void> {
  const transfer = folder.readTransfer()?.process;
  if (transfer !== undefined) await endProcess(transfer, SIGKILL, KILL_TIMEOUT_MS);
}

/** Includes a serving process that has not recorded itself yet. */
async function endSession(keeper: ProcessIdentity): Promise<void> {
  await endProcess(keeper, SIGKILL, KILL_TIMEOUT_MS);
  for (const member of processesOfSession(keeper)) await endProcess(member, SIGKILL, KILL_TIMEOUT_MS);
}

/** Ends what a restore under this name left behind when it died before its VM ran. Returns whether there was any. */
export async function endAbandoned(name: string): Promise<boolean> {
  if ((await settled(new VmFolder(name))) !== 'abandoned') return false;
  await stopVm(name);
  return true;
}

/** What a dead verb started either ends within moments or becomes a VM that runs. */
async function settled(folder: VmFolder): Promise<VmStatus | undefined> {
  const endMs = performance.now() + SETTLES_WITHIN_MS;
  for (;;) {
    const record = folder.read();
    const status = record && statusOf(record, folder.readTransfer());
    const isMoving = status === 'starting' && !isAlive(record!.verb);
    if (!isMoving || performance.now() > endMs) return status;
    await sleep(LOOK_EVERY_MS);
  }
}

async function endQemu(qemu: ProcessIdentity, folder: VmFolder): Promise<'quit' | 'SIGTERM' | 'SIGKILL'> {
  try {
    await quit(qemu, folder.file('qmp.sock'));
    await untilEnded(qemu, POLITE_TIMEOUT_MS);
    return 'quit';
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
  }
  try {
    await endProcess(qemu, SIGTERM, POLITE_TIMEOUT_MS);
    return 'SIGTERM';
  } catch (error) {
    if (!(error instanceof VmckptError) || error.code !== 'TIMEOUT') throw error;
  }
  await endProcess(qemu, SIGKILL, KILL_TIMEOUT_MS);
  return 'SIGKILL';
}

/** @throws VmckptError, VM_STATE when another process listens there */
async function quit({ pid }: ProcessIdentity, socket: string): Promise<void> {
  const qmp = await QmpClient.connect({ path: socket, timeoutMs: POLITE_TIMEOUT_MS });
  try {
    // If QEMU runs as another user, that user may have put any socket there.
    if (qmp.peerPid() !== pid)
      throw new VmckptError('VM_STATE', `${socket} is not the monitor of process ${pid}`);
    await qmp.execute('quit', {}, { timeoutMs: POLITE_TIMEOUT_MS });
  } finally {
    await qmp.close();
  }
}
