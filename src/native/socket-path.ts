/** A path to listen on: short enough for a socket, and free of what a dead process has left. */
import { closeSync, lstatSync, unlinkSync } from 'node:fs';
import { VmckptError } from '../errors.js';
import { connectUnix } from './index.js';

/** sockaddr_un, without its terminating zero. */
const MAX_PATH_BYTES = 107;

/** @throws VmckptError USAGE */
export function requireSocketPath(socketPath: string): void {
  if (Buffer.byteLength(socketPath) <= MAX_PATH_BYTES) return;
  throw new VmckptError(
    'USAGE',
    `a socket's path has at most ${MAX_PATH_BYTES} bytes, this one has ${Buffer.byteLength(socketPath)}`,
    { hint: 'Use a shorter path, for example relative to the working directory.' },
  );
}

/**
 * A socket without a listener was left by a process that died.
 * @param hint for a path that another process listens on
 * @throws VmckptError FILE_EXISTS; system errors as they are
 */
export function removeStaleSocket(socketPath: string, hint: string): void {
  const found = lstatSync(socketPath, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new VmckptError('FILE_EXISTS', `${socketPath} exists and is not a socket`, {
      hint: 'Use another path.',
    });
  try {
    closeSync(connectUnix(socketPath));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED') throw error;
    unlinkSync(socketPath);
    return;
  }
  throw new VmckptError('FILE_EXISTS', `another process listens on ${socketPath}`, { hint });
}
