/**
 * Files of a generation: whole reads and writes at an offset, fsync, and system errors as errors of ours.
 * Everything is created for its owner alone, because memory holds secrets.
 */
import fs from 'node:fs';
import { chmod, constants, copyFile, link, open } from 'node:fs/promises';
import { VmckptError } from '../errors.js';

export const FILE_MODE = 0o600;
export const DIRECTORY_MODE = 0o700;
/** What link(2) says where it makes no links: of this file, or of any. */
const NO_LINK = ['EXDEV', 'EPERM', 'EMLINK', 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS'];

/** Reads `bytes.length` bytes at `offset`, fewer only at the end of the file; returns how many. */
export function readAt(fd: number, bytes: Uint8Array, offset: number): number {
  let done = 0;
  while (done < bytes.length) {
    const count = fs.readSync(fd, bytes, done, bytes.length - done, offset + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}

/** Writes all of `bytes` at `offset`. */
export function writeAt(fd: number, bytes: Uint8Array, offset: number): void {
  let done = 0;
  while (done < bytes.length) done += fs.writeSync(fd, bytes, done, bytes.length - done, offset + done);
}

/** Makes a file's or a directory's contents survive a crash of the host. */
export async function fsyncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Writes a new file and fsyncs it. */
export async function writeNewFile(path: string, bytes: Uint8Array): Promise<void> {
  const handle = await open(path, 'wx', FILE_MODE);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Gives a file another name: a hard link; where the file system has none, a durable reflink or copy. */
export async function linkOrCopy(existing: string, file: string): Promise<void> {
  try {
    await link(existing, file);
  } catch (error) {
    if (!NO_LINK.includes(errnoOf(error) ?? '')) throw error;
    await copyFile(existing, file, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
    await chmod(file, FILE_MODE);
    await fsyncPath(file);
  }
}

export function errnoOf(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}

/** What a failed write means to the user. `what` completes "cannot write …". */
export function writeFailure(error: unknown, what: string): VmckptError {
  if (error instanceof VmckptError) return error;
  const errno = errnoOf(error);
  const reason = error instanceof Error ? error.message : String(error);
  const message = `cannot write ${what}: ${reason}`;
  if (errno === 'ENOSPC' || errno === 'EDQUOT')
    return new VmckptError('NO_SPACE', message, {
      hint: 'Free space on the store’s file system, delete old generations with vmckpt prune, or use another --store.',
      cause: error,
    });
  if (errno === 'EACCES' || errno === 'EPERM' || errno === 'EROFS')
    return new VmckptError('STORE_NOT_WRITABLE', message, {
      hint: 'Use a --store that this user may write to.',
      cause: error,
    });
  return new VmckptError('FAILED', message, { cause: error });
}
