/**
 * Signals go through a pidfd, so that they never reach a later process with the same number. Without the addon, a
 * moment remains between the last check and the signal.
 */
import { closeSync } from 'node:fs';
import { hasAddon, pidfdOpen, pidfdSendSignal } from '../native/index.js';
import { identifyProcess, isAlive, untilEnded, type ProcessIdentity } from '../util/process-identity.js';

export const SIGUSR1 = 10;
export const SIGTERM = 15;
export const SIGKILL = 9;

/** Returns once the process is gone. @throws VmckptError TIMEOUT */
export async function endProcess(target: ProcessIdentity, signal: number, timeoutMs: number): Promise<void> {
  sendSignal(target, signal);
  await untilEnded(target, timeoutMs);
}

/** The process that has this number now. Does nothing if there is none. */
export function killAtOnce(pid: number): void {
  const target = identifyProcess(pid);
  if (target !== undefined) sendSignal(target, SIGKILL);
}

/** Does nothing if the process has ended. */
export function sendSignal(target: ProcessIdentity, signal: number): void {
  try {
    if (!hasAddon()) {
      if (isAlive(target)) process.kill(target.pid, signal);
      return;
    }
    const pidfd = pidfdOpen(target.pid);
    try {
      // Checked only now: the descriptor keeps the number from being reused.
      if (isAlive(target)) pidfdSendSignal(pidfd, signal);
    } finally {
      closeSync(pidfd);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
