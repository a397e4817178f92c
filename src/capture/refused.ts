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
