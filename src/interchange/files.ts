/**
 * Files and pipes at the edge of vmckpt. What is read or written may be a pipe whose other end takes any time, and
 * Node's pool of threads cannot be interrupted in a blocking call: pipes are therefore polled, never read in the pool.
 * A file that is written appears under its name whole and durable, or not at all.
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

/** Opens a file, a device or a named pipe for reading. @throws VmckptError HOST_FILE_MISSING, FILE_UNREADABLE, NOT_PERMITTED */
export async function openInput(file: string): Promise<Readable> {
  try {
    const found = await stat(file);
    if (found.isDirectory())
      throw new VmckptError('FILE_UNREADABLE', `${file} is a directory, a file or a pipe expected`);
    if (!found.isFIFO())
      return fs.createReadStream('', { fd: fs.openSync(file, 'r'), highWaterMark: MAX_BURST_BYTES });
    // Opened like this it waits for a writer when it is read, not now.
    const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    return new net.Socket({ fd, readable: true, writable: false });
  } catch (error) {
    throw readFailure(error, file);
  }
}

/** Standard output as a stream that may be closed; nothing else can be printed on it then. */
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
 * Writes a file through `fill`, which must end and close the stream that it is given. The file is its owner's alone.
 * @throws VmckptError HOST_FILE_MISSING, FILE_EXISTS, NO_SPACE, NOT_PERMITTED, FAILED, and what `fill` throws; then there is no new file
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
    // A write that it cuts short fails too, of which there is nothing more to say.
    if (!out.closed) await once(out, 'close').catch(() => undefined);
    throw error;
  }
}

async function refuseExisting(file: string, overwrite: boolean): Promise<void> {
  const found = await lstat(file).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isFile())
    throw new VmckptError('FILE_EXISTS', `${file} exists and is not a regular file`, {
      hint: 'With - as the name it goes to standard output, which can be redirected anywhere.',
    });
  if (!overwrite) throw fileExists(file);
}

/** A hard link never replaces anything, as a rename would; where there are none, looking again has to do. */
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
      `${file} cannot be made: a part of its path is not a folder`,
      {
        hint: 'Give another path.',
        cause: error,
      },
    );
  const code = ['EACCES', 'EPERM', 'EROFS'].includes(errno) ? 'NOT_PERMITTED' : 'FAILED';
  return new VmckptError(code, message, { cause: error });
}
