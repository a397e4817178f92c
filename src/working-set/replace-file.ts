/**
 * Replaces a hint as a whole: written to `.NAME.tmp`, fsynced, renamed. The temporary file is also the writers' lock
 * (an open-file-description lock, which ends with its process). Restores of one generation that end together write
 * one after the other, and none is lost. The next writer reuses the file that a crash left.
 */
import fs from 'node:fs';
import { rename } from 'node:fs/promises';
import path from 'node:path';
import { fsyncPath } from '../checkpoint/files.js';
import { tryLockFile } from '../native/index.js';
import { poll } from '../util/deadline.js';
import { openRegular } from '../util/regular-file.js';

const LOCK_TIMEOUT_MS = 5000;
const LOCK_POLL_MS = 20;

/**
 * `write` gets an empty file. If it returns false, `file` stays as it is.
 * @throws VmckptError TIMEOUT while another process writes, NOT_A_FILE; system errors as they are; what `write` throws
 */
export async function replaceFile(file: string, write: (fd: number) => boolean): Promise<void> {
  const dir = path.dirname(file);
  const temporary = path.join(dir, `.${path.basename(file)}.tmp`);
  const fd = await lockTemporary(temporary);
  try {
    fs.ftruncateSync(fd);
    if (!write(fd)) return fs.rmSync(temporary);
    fs.fsyncSync(fd);
    await rename(temporary, file);
    await fsyncPath(dir);
  } finally {
    fs.closeSync(fd);
  }
}

function lockTemporary(temporary: string): Promise<number> {
  return poll(() => tryLockTemporary(temporary), {
    what: `another process to write ${temporary}`,
    timeoutMs: LOCK_TIMEOUT_MS,
    everyMs: LOCK_POLL_MS,
  });
}

function tryLockTemporary(temporary: string): number | undefined {
  const fd = openRegular(temporary, fs.constants.O_RDWR | fs.constants.O_CREAT);
  try {
    // The former holder of the lock may have renamed the file: then this descriptor is the new `file` itself.
    const isStillThere = (): boolean =>
      fs.statSync(temporary, { throwIfNoEntry: false })?.ino === fs.fstatSync(fd).ino;
    if (tryLockFile(fd) && isStillThere()) return fd;
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
  fs.closeSync(fd);
  return undefined;
}
