/**
 * An exclusive lock that ends with its process, however the process dies: an open-file-description lock. The file holds
 * the holder's process id, for messages only.
 */
import fs from 'node:fs';
import { errnoOf } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { isFileLocked, tryLockFile } from '../native/index.js';
import { openRegular } from '../util/regular-file.js';

const MAX_PID_BYTES = 16;

export class LockFile {
  readonly #fd: number;
  readonly #path: string;

  private constructor(fd: number, path: string) {
    this.#fd = fd;
    this.#path = path;
  }

  /**
   * Creates and locks the file. Undefined when another process holds the lock, or when the file was deleted in
   * between and the caller should try again. System errors are thrown as they are.
   * @throws VmckptError NOT_A_FILE
   */
  static tryTake(path: string): LockFile | undefined {
    const fd = openRegular(path, fs.constants.O_RDWR | fs.constants.O_CREAT);
    try {
      if (tryLockFile(fd) && fs.fstatSync(fd).nlink > 0) {
        const lock = new LockFile(fd, path);
        lock.nameHolder(process.pid);
        return lock;
      }
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
    fs.closeSync(fd);
    return undefined;
  }

  /** The process that holds the lock; 0 if unknown; undefined if there is none. Writes nothing. */
  static holderOf(path: string): number | undefined {
    let fd: number;
    try {
      fd = openRegular(path);
    } catch (error) {
      // Something other than a file holds no lock. A lock that this user may not read cannot block this user either.
      if (error instanceof VmckptError) return undefined;
      if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(errnoOf(error) ?? '')) return undefined;
      throw error;
    }
    try {
      if (!isFileLocked(fd)) return undefined;
      const text = Buffer.alloc(MAX_PID_BYTES);
      return Number.parseInt(text.toString('latin1', 0, fs.readSync(fd, text, 0, MAX_PID_BYTES, 0)), 10) || 0;
    } finally {
      fs.closeSync(fd);
    }
  }

  /** A child that inherits it holds the lock as long as it lives. */
  get fd(): number {
    return this.#fd;
  }

  nameHolder(pid: number): void {
    fs.ftruncateSync(this.#fd);
    fs.writeSync(this.#fd, `${pid}\n`, 0);
  }

  /** Deletes the file while it is still locked, so that no other process can lock a file that is about to disappear. */
  delete(): void {
    fs.rmSync(this.#path, { force: true });
  }

  release(): void {
    fs.closeSync(this.#fd);
  }
}

/** @param pid 0 if unknown */
export function locked(what: string, pid: number): VmckptError {
  const holder = pid === 0 ? 'another process' : `process ${pid}`;
  return new VmckptError('STORE_LOCKED', `${what} by ${holder}`, {
    hint: 'Wait until it has finished. The lock is released when that process ends.',
  });
}
