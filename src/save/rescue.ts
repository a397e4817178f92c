/**
 * Frees a VM that a broken background-snapshot has frozen: QEMU 7.2 never lifts the write protection from memory
 * when its receiver dies, so that every vCPU hangs at its next write while QEMU says "running". What vmckpt changed
 * or somebody left switched on in the VM's migration settings is put right when its QMP socket is known.
 */
import { readlinkSync } from 'node:fs';
import path from 'node:path';
import { removeDescriptors } from '../capture/device-capture.js';
import { VmckptError } from '../errors.js';
import { asRoot } from '../util/rights.js';
import { requireAddon, rescueUserfaultfd, type RescueResult } from '../native/index.js';
import { QmpClient } from '../qemu/qmp.js';
import { isEmulatorName } from '../qemu/launch.js';
import { identifyProcess, type ProcessIdentity } from '../util/process-identity.js';
import { putRight } from './putting-right.js';
import { endTracking } from './tracked-vms.js';
import { VmJournal } from './vm-journal.js';

const CONNECT_TIMEOUT_MS = 10_000;

export interface RescueOptions {
  readonly pid: number;
  /** QEMU's QMP socket; its settings are left alone without it. */
  readonly qmpSocket: string | undefined;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

export interface RescueReport extends RescueResult {
  readonly pid: number;
  /** Whether a `save --track` has kept track of its writes: not any longer. */
  readonly trackingEnded: boolean;
  /** Whether the VM's migration settings were looked at and put right where they had to be, and descriptors closed. */
  readonly settingsPutRight: boolean;
}

/**
 * @throws VmckptError NO_SUCH_VM, USAGE when the process is no QEMU or the socket is not its own, VM_BUSY while a
 * vmckpt saves it (a snapshot that works would be torn), NOT_PERMITTED, NATIVE_MISSING
 */
export async function rescue({ pid, qmpSocket, onMessage, signal }: RescueOptions): Promise<RescueReport> {
  requireAddon('vmckpt rescue');
  const qemu = requireQemu(pid);
  const journal = VmJournal.open(qemu);
  try {
    const trackingEnded = (await endTracking(qemu)) !== undefined;
    // Memory first: until it is writable QEMU may not answer at all.
    const freed = liftProtection(pid);
    const rescued = { pid, ...freed, trackingEnded };
    if (qmpSocket === undefined) return { ...rescued, settingsPutRight: false };
    const qmp = await QmpClient.connect({ path: qmpSocket, timeoutMs: CONNECT_TIMEOUT_MS, signal });
    try {
      if (qmp.peerPid() !== pid)
        throw new VmckptError('USAGE', `${qmpSocket} belongs to process ${qmp.peerPid()}, not to ${pid}`);
      await putRight({ qmp, journal, onMessage });
      await removeDescriptors(qmp);
    } finally {
      await qmp.close();
    }
    return { ...rescued, settingsPutRight: true };
  } finally {
    journal.close();
  }
}

function requireQemu(pid: number): ProcessIdentity {
  const identity = identifyProcess(pid);
  if (identity === undefined)
    throw new VmckptError('NO_SUCH_VM', `there is no process ${pid}`, {
      hint: 'List them with pgrep -a qemu.',
    });
  const executable = path.basename(executableOf(pid)).replace(/ \(deleted\)$/, '');
  if (isEmulatorName(executable)) return identity;
  throw new VmckptError('USAGE', `process ${pid} is ${executable}, a QEMU expected`, {
    hint: 'List them with pgrep -a qemu.',
  });
}

function executableOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch (error) {
    throw notPermitted(pid, error);
  }
}

function liftProtection(pid: number): RescueResult {
  try {
    return rescueUserfaultfd(pid);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw code === 'EPERM' || code === 'EACCES' ? notPermitted(pid, error) : error;
  }
}

function notPermitted(pid: number, cause: unknown): VmckptError {
  return new VmckptError('NOT_PERMITTED', `this user may not look into process ${pid}`, {
    hint: `${asRoot('Run vmckpt rescue', 'CAP_SYS_PTRACE')}.`,
    cause,
  });
}
