/**
 * Signals go through a pidfd, so that they reach this process and never a later one with its number. Without the addon
 * there is a moment between the last look and the signal.
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

/** The process that has this number now; nothing happens when none does. */
export function killAtOnce(pid: number): void {
  const target = identifyProcess(pid);
  if (target !== undefined) sendSignal(target, SIGKILL);
}

/** Nothing happens when it has ended. */
export function sendSignal(target: ProcessIdentity, signal: number): void {
  try {
    if (!hasAddon()) {
      if (isAlive(target)) process.kill(target.pid, signal);
      return;
    }
    const pidfd = pidfdOpen(target.pid);
    try {
      // Only now, with the number held fast by the descriptor, is it sure whose it is.
      if (isAlive(target)) pidfdSendSignal(pidfd, signal);
    } finally {
      closeSync(pidfd);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
