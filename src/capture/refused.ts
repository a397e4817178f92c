import { VmckptError } from '../errors.js';

/** @param why a clause that says what was expected and what was found */
export function captureRefused(why: string, cause?: unknown): VmckptError {
  return new VmckptError('CAPTURE_REFUSED', `the VM cannot be captured from outside: ${why}`, {
    hint: 'Save it by QEMU’s migration instead: --live background-snapshot.',
    cause,
  });
}
