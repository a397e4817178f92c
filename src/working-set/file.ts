/**
 * The file `working-set` in a generation's folder. It is a hint: whatever is wrong with it, and whatever goes wrong with
 * writing it, is told in words and never thrown, because a restore that has succeeded must not fail over it.
 *
 * It is replaced as a whole: written to `.working-set.tmp`, fsynced, renamed. That temporary file is at the same time the
 * lock of whoever learns (an open-file-description lock, gone with its process): restores of one generation
 * that end together learn one after the other and none is lost, and what a crash leaves is used by the next one.
 */
import fs from 'node:fs';
import { rename } from 'node:fs/promises';
import path from 'node:path';
import { FILE_MODE, errnoOf, fsyncPath, readAt, writeAt, writeFailure } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { tryLockFile } from '../native/index.js';
import { poll } from '../util/deadline.js';
import { MAX_WORKING_SET_BYTES, decodeWorkingSet, encodeWorkingSet } from './codec.js';
import type { Opened } from './envelope.js';
import { newWorkingSet, type WorkingSet } from './working-set.js';

export const WORKING_SET_FILE = 'working-set';
const TEMPORARY_FILE = '.working-set.tmp';
const LOCK_TIMEOUT_MS = 5000;
const LOCK_POLL_MS = 20;

export interface KnownWorkingSet {
  /** An empty one when there is none to be had. */
  readonly workingSet: WorkingSet;
  /** Why it could not be read, as a clause for the user; undefined also when there has never been one. */
  readonly problem: string | undefined;
}

/** Never throws but for bugs. `pageCount` is the checkpoint's. */
export function readWorkingSet(generationDir: string, pageCount: number): KnownWorkingSet {
  const found = readFile(path.join(generationDir, WORKING_SET_FILE), pageCount);
  if (found === undefined) return { workingSet: newWorkingSet(pageCount), problem: undefined };
  if (found.status === 'ok') return { workingSet: found.value, problem: undefined };
  return { workingSet: newWorkingSet(pageCount), problem: `the working set is not used: ${found.problem}` };
}

/**
 * Replaces the working set by what `learn` (learnRestore, learnDirtyPages) makes of it; a damaged one is begun anew.
 * @returns why nothing was written, as a clause for the user: a store that cannot be written to, a working set of a
 *   newer version, damage of the checkpoint that `learn` met. undefined when it was. Never throws but for bugs.
 */
export async function updateWorkingSet(
  generationDir: string,
  pageCount: number,
  learn: (known: WorkingSet) => WorkingSet,
): Promise<string | undefined> {
  const file = path.join(generationDir, WORKING_SET_FILE);
  try {
    const temporary = path.join(generationDir, TEMPORARY_FILE);
    const fd = await lockTemporary(temporary);
    try {
      const found = readFile(file, pageCount);
      if (found?.status === 'unsupported') return `the working set stays as it is: ${found.problem}`;
      const known = found?.status === 'ok' ? found.value : newWorkingSet(pageCount);
      const bytes = encodeWorkingSet(learn(known));
      fs.ftruncateSync(fd);
      writeAt(fd, bytes, 0);
      fs.fsyncSync(fd);
      await rename(temporary, file);
      await fsyncPath(generationDir);
      return undefined;
    } finally {
      fs.closeSync(fd);
    }
  } catch (error) {
    if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
    return `the working set was not recorded: ${writeFailure(error, file).message}`;
  }
}

/** The temporary file, locked. @throws VmckptError TIMEOUT; system errors as they are */
function lockTemporary(temporary: string): Promise<number> {
  return poll(() => tryLockTemporary(temporary), {
    what: 'another restore to record its working set',
    timeoutMs: LOCK_TIMEOUT_MS,
    everyMs: LOCK_POLL_MS,
  });
}

function tryLockTemporary(temporary: string): number | undefined {
  const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = fs.constants;
  const fd = fs.openSync(temporary, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, FILE_MODE);
  try {
    // Whoever held the lock may have renamed the file away: then this is the working set itself.
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

/** undefined when there is no such file. */
function readFile(file: string, pageCount: number): Opened<WorkingSet> | undefined {
  let fd: number;
  try {
    // Not to wait for a pipe, nor to follow a link out of the store.
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    return unreadable(error);
  }
  try {
    const found = fs.fstatSync(fd);
    if (!found.isFile()) return { status: 'damaged', problem: `${WORKING_SET_FILE} is not a file` };
    if (found.size > MAX_WORKING_SET_BYTES)
      return {
        status: 'damaged',
        problem: `it has ${found.size} bytes, at most ${MAX_WORKING_SET_BYTES} expected`,
      };
    const bytes = Buffer.alloc(found.size);
    return decodeWorkingSet(bytes.subarray(0, readAt(fd, bytes, 0)), pageCount);
  } catch (error) {
    return unreadable(error);
  } finally {
    fs.closeSync(fd);
  }
}

function unreadable(error: unknown): Opened<never> {
  if (errnoOf(error) === undefined) throw error;
  return { status: 'damaged', problem: error instanceof Error ? error.message : String(error) };
}
