/** What ends a capture, by name: QEMU may end at any moment, and its memory may change. */
import { VmckptError } from '../errors.js';

/** @param why a clause that says what was expected and what was found */
export function captureRefused(why: string, cause?: unknown): VmckptError {
  return new VmckptError('CAPTURE_REFUSED', `the VM cannot be captured from outside: ${why}`, {
    hint: 'Save it by QEMU’s migration instead: --live background-snapshot.',
    cause,
  });
}

/** Memory was plugged in or taken away, or a block has grown. */
export function memoryChanged(cause?: unknown): VmckptError {
  return captureRefused('its memory was changed (memory hot-plug) meanwhile', cause);
}

/**
 * For reads of QEMU's process, under /proc or by system calls.
 * @throws VmckptError CAPTURE_REFUSED, QEMU_DIED, FAILED; its own VmckptErrors as they are
 */
export function readingQemu<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw error instanceof VmckptError ? error : unreadable(error as NodeJS.ErrnoException);
  }
}

/** What a failed read of QEMU's process means. ENOENT: there is no /proc/PID any more. */
export function unreadable(cause: NodeJS.ErrnoException): VmckptError {
  const { code, message } = cause;
  if (code === 'EFAULT') return memoryChanged(cause);
  if (code === 'ESRCH' || code === 'ENOENT') return qemuDied(cause);
  if (code === 'EACCES' || code === 'EPERM')
    return captureRefused('this user may not read the memory of QEMU’s process', cause);
  return new VmckptError('FAILED', `QEMU’s memory cannot be read: ${message}`, { cause });
}

export function qemuDied(cause?: unknown): VmckptError {
  return new VmckptError('QEMU_DIED', 'QEMU ended while its memory was being read', { cause });
}
