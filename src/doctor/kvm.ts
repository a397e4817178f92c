/** Tries hardware virtualization: that /dev/kvm opens proves little. */
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { findQemuBinary, launchQemu, type LaunchedQemu } from '../qemu/launch.js';
import type { Finding } from './finding.js';

const DEVICE = '/dev/kvm';
const START_TIMEOUT_MS = 15_000;
const QUIT_TIMEOUT_MS = 2_000;
/** A processor that KVM cannot run fails within its first instructions. */
const RUN_MS = 200;
const MEANING = 'VMs run in software emulation, which is slow.';

const Status = v.object({ status: v.string() });

/**
 * Starts QEMU with a machine under KVM, and lets its firmware run for a moment.
 * @param chosen the binary that the user named. @throws the signal's reason
 */
export async function examineKvm(chosen: string | undefined, signal: AbortSignal): Promise<Finding> {
  const check = { check: 'kvm', title: 'Hardware virtualization' };
  const limited = { ...check, status: 'warn', meaning: MEANING } as const;
  const whyNot = whyItDoesNotOpen();
  if (whyNot !== undefined) return { ...limited, ...whyNot };
  try {
    const status = await tryMachine(findQemuBinary({ chosen }), signal);
    if (status === 'running')
      return { ...check, status: 'ok', found: `QEMU ran a machine's firmware under KVM for ${RUN_MS} ms` };
    const found = `a machine that QEMU ran under KVM for ${RUN_MS} ms has the state ${status}, expected running`;
    return { ...limited, found, remedy: 'dmesg | tail   (the kernel may say what KVM cannot do here)' };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof VmckptError)) throw error;
    const found = `${DEVICE} opens, but QEMU cannot use it: ${error.message}`;
    return { ...limited, found, remedy: error.hint ?? 'dmesg | tail' };
  }
}

function whyItDoesNotOpen(): Pick<Finding, 'found' | 'remedy'> | undefined {
  try {
    closeSync(openSync(DEVICE, 'r+'));
    return undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return {
      found: code === 'ENOENT' ? `there is no ${DEVICE}` : `${DEVICE} does not open (${code})`,
      remedy:
        code === 'EACCES'
          ? 'usermod -aG kvm "$(id -un)"   (then log in again)'
          : 'modprobe kvm-intel || modprobe kvm-amd (and virtualization switched on in the firmware)',
    };
  }
}

/** @returns QEMU's run state after that moment */
async function tryMachine(binary: string, signal: AbortSignal): Promise<string> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'vmckpt-doctor-'));
  const qmpSocket = path.join(directory, 'qmp.sock');
  const logPath = path.join(directory, 'qemu.log');
  const monitor = `unix:${qmpSocket.replaceAll(',', ',,')},server=on,wait=off`;
  const machine = ['-machine', 'q35,accel=kvm', '-m', '16', '-nodefaults', '-display', 'none', '-S'];
  const args = [...machine, '-qmp', monitor];
  let qemu: LaunchedQemu | undefined;
  try {
    qemu = await launchQemu({ binary, args, qmpSocket, logPath, signal, timeoutMs: START_TIMEOUT_MS });
    await qemu.qmp.execute('cont');
    await sleep(RUN_MS);
    return (await qemu.qmp.query(Status, 'query-status')).status;
  } finally {
    const quit = qemu?.qmp.execute('quit', {}, { timeoutMs: QUIT_TIMEOUT_MS });
    await quit?.catch(() => process.kill(qemu!.pid, 'SIGKILL'));
    await qemu?.qmp.close();
    rmSync(directory, { recursive: true, force: true });
  }
}
