/** Errors at a monitor, and what to do about them. */
import { readFileSync } from 'node:fs';
import { VmckptError } from '../errors.js';
import { isStopped } from '../util/process-identity.js';

export function closedBy(what: string, path: string, cause?: unknown): VmckptError {
  const hint = 'See the log of QEMU: QEMU ended, or was told to drop its clients.';
  return new VmckptError('QMP_CLOSED', `${what} (${path})`, { hint, cause });
}

export function notQmp(path: string, what: string, cause?: unknown): VmckptError {
  const hint =
    'Name the socket of a QMP monitor: -qmp unix:PATH,server=on,wait=off (-monitor is for people).';
  return new VmckptError('QMP_NOT_QMP', `${path} ${what}`, { hint, cause });
}

export function busy(path: string, listener: number | undefined, cause: unknown): VmckptError {
  if (listener !== undefined && isStopped(listener)) return stopped(listener, cause);
  const who = listener === undefined ? '' : ` of process ${listener}${commandName(listener)}`;
  const hint =
    'A QMP monitor serves one client at a time: end the other one (`ss -xp` shows it), or give QEMU a second -qmp socket.';
  return new VmckptError('QMP_BUSY', `the socket ${path}${who} accepts but sends no QMP greeting`, {
    hint,
    cause,
  });
}

export function refused(
  command: string,
  { class: kind, desc }: { class: string; desc: string },
): VmckptError {
  return new VmckptError('QMP_COMMAND_FAILED', `QEMU refused ${command}: ${desc} (${kind})`);
}

/** Explains an answer that has not come. */
export function unanswered(listener: () => number, error: unknown): unknown {
  if (!(error instanceof VmckptError) || error.code !== 'TIMEOUT') return error;
  const pid = listener();
  return isStopped(pid) ? stopped(pid, error) : error;
}

function stopped(pid: number, cause: unknown): VmckptError {
  const message = `process ${pid}${commandName(pid)} is stopped, by SIGSTOP or a debugger, and does not answer`;
  const hint = `Resume it: kill -CONT ${pid}, or detach the debugger.`;
  return new VmckptError('VM_STATE', message, { hint, cause });
}

function commandName(pid: number): string {
  try {
    return ` (${readFileSync(`/proc/${pid}/comm`, 'utf8').trim()})`;
  } catch {
    return '';
  }
}
