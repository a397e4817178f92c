/**
 * Files and pipes at the edge of vmckpt. The other end of a pipe may take any time, and a blocking call in Node's
 * thread pool cannot be interrupted, so pipes are polled and never read in the pool. A file that is written appears
 * under its name complete and durable, or not at all.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import { link, lstat, rename, rm, stat } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { FILE_MODE, errnoOf, fsyncPath } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { requireFolderOf } from '../util/output-folder.js';
import { MAX_BURST_BYTES } from '../pages/contracts.js';

/** Both count `bytesWritten`. */
export type Output = fs.WriteStream | net.Socket;

const STANDARD_OUTPUT_FD = 1;

/**
 * Opens a file, a device or a named pipe for reading. @throws VmckptError HOST_FILE_MISSING, FILE_UNREADABLE,
 * NOT_PERMITTED
 */
export async function openInput(file: string): Promise<Readable> {
  try {
    const found = await stat(file);
    if (found.isDirectory())
      throw new VmckptError('FILE_UNREADABLE', `${file} is a directory, expected a file or a pipe`);
    if (!found.isFIFO())
      return fs.createReadStream('', { fd: fs.openSync(file, 'r'), highWaterMark: MAX_BURST_BYTES });
    // With O_NONBLOCK, opening a pipe does not wait for a writer; reading does.
    const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    return new net.Socket({ fd, readable: true, writable: false });
  } catch (error) {
    throw readFailure(error, file);
  }
}

/** Standard output as a stream that may be closed. Nothing else can be printed on it afterwards. */
export function standardOutput(): Output {
  const found = fs.fstatSync(STANDARD_OUTPUT_FD);
  return found.isFIFO() || found.isSocket()
    ? new net.Socket({ fd: STANDARD_OUTPUT_FD, readable: false, writable: true })
    : fs.createWriteStream('', { fd: STANDARD_OUTPUT_FD });
}

export interface NewFileOptions {
  /** Replace the file if it exists. */
  readonly overwrite: boolean;
}

/**
 * Writes a file through `fill`, which must end and close the stream that it gets. Only the owner may access the file.
 * @throws VmckptError HOST_FILE_MISSING, FILE_EXISTS, NO_SPACE, NOT_PERMITTED, FAILED, and what `fill` throws; then
 *   there is no new file
 */
export async function writeNewFile<T>(
  file: string,
  { overwrite }: NewFileOptions,
  fill: (out: Output) => Promise<T>,
): Promise<T> {
  requireFolderOf(file);
  await refuseExisting(file, overwrite);
  const directory = path.dirname(path.resolve(file));
  const temporary = path.join(directory, `.vmckpt-${process.pid}-${randomBytes(4).toString('hex')}`);
  try {
    const fd = fs.openSync(temporary, 'wx', FILE_MODE);
    const out = fs.createWriteStream('', { fd, flush: true });
    const result = await fillOrDestroy(out, fill);
    await (overwrite ? rename(temporary, file) : giveFreeName(temporary, file));
    await fsyncPath(directory);
    return result;
  } catch (error) {
    throw writeFailure(error, file);
  } finally {
    await rm(temporary, { force: true });
  }
}

async function fillOrDestroy<T>(out: Output, fill: (out: Output) => Promise<T>): Promise<T> {
  try {
    return await fill(out);
  } catch (error) {
    out.destroy();
    // Closing cuts off a pending write, which then fails as well. That failure is not worth reporting.
    if (!out.closed) await once(out, 'close').catch(() => undefined);
    throw error;
  }
}

async function refuseExisting(file: string, overwrite: boolean): Promise<void> {
  const found = await lstat(file).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isFile())
    throw new VmckptError('FILE_EXISTS', `${file} exists and is not a regular file`, {
      hint: 'Use - to write to standard output, which can be redirected anywhere.',
    });
  if (!overwrite) throw fileExists(file);
}

/** Unlike a rename, a hard link never replaces anything. Where there are no hard links, a second check must do. */
async function giveFreeName(temporary: string, file: string): Promise<void> {
  try {
    await link(temporary, file);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EEXIST') throw fileExists(file, error);
    if (errno !== 'EPERM' && errno !== 'ENOTSUP') throw error;
    await refuseExisting(file, false);
    await rename(temporary, file);
  }
}

function fileExists(file: string, cause?: unknown): VmckptError {
  return new VmckptError('FILE_EXISTS', `${file} exists already`, {
    hint: 'Give another name, or --overwrite to replace it.',
    cause,
  });
}

/** What a failed read means to the user. */
export function readFailure(error: unknown, file: string): unknown {
  const errno = errnoOf(error);
  if (error instanceof VmckptError || errno === undefined) return error;
  if (errno === 'ENOENT' || errno === 'ENOTDIR')
    return new VmckptError('HOST_FILE_MISSING', `there is no file ${file}`, { cause: error });
  const code = errno === 'EACCES' || errno === 'EPERM' ? 'NOT_PERMITTED' : 'FILE_UNREADABLE';
  return new VmckptError(code, `cannot read ${file}: ${(error as Error).message}`, { cause: error });
}

/** What a failed write means to the user. */
export function writeFailure(error: unknown, file: string): unknown {
  const errno = errnoOf(error);
  if (error instanceof VmckptError || errno === undefined) return error;
  const message = `cannot write ${file}: ${(error as Error).message}`;
  if (errno === 'ENOSPC' || errno === 'EDQUOT')
    return new VmckptError('NO_SPACE', message, {
      hint: 'Free some space, or write elsewhere.',
      cause: error,
    });
  if (errno === 'ENOTDIR')
    return new VmckptError(
      'HOST_FILE_MISSING',
      `${file} cannot be created: a part of its path is not a folder`,
      {
        hint: 'Give another path.',
        cause: error,
      },
    );
  const code = ['EACCES', 'EPERM', 'EROFS'].includes(errno) ? 'NOT_PERMITTED' : 'FAILED';
  return new VmckptError(code, message, { cause: error });
}
