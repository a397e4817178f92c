/**
 * A process that reads a generation for some time (such as the transfer of a restored VM) holds a use of it, and the
 * generation is not removed until then. A use is a locked file next to the generation, one per user, so it ends with
 * its process.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, writeFailure } from '../checkpoint/files.js';
import { generationLabel } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { LockFile, locked } from './lock-file.js';
import { randomU32 } from '../util/random.js';

const PREFIX = '.use-';
/** How many times the file of a use may be deleted under us before we give up. */
const ATTEMPTS = 10;

export interface GenerationUse {
  /** A child that inherits it also holds the use; undefined where nothing can be held. */
  readonly fd: number | undefined;
  /** The use ends with that child instead of this process. */
  leaveTo(pid: number): void;
  /** A second call does nothing. */
  release(): void;
}

/**
 * Keeps the generation in `dir` from being removed. Where this user cannot write (a read-only file system, another
 * user's store), nothing is written and nothing is kept.
 * @throws VmckptError NO_CHECKPOINT when it is gone
 */
export function holdGeneration(dir: string): GenerationUse {
  let lock: LockFile | undefined;
  try {
    const file = useFile(dir, `${process.pid}-${randomU32().toString(16)}`);
    // Until it is locked, the file looks abandoned, and another process may delete it.
    for (let attempt = 0; lock === undefined && attempt < ATTEMPTS; attempt++) lock = LockFile.tryTake(file);
  } catch (error) {
    if (!['EROFS', 'EACCES', 'EPERM', 'ENOENT'].includes(errnoOf(error) ?? '')) throw error;
  }
  return useOf(dir, lock);
}

/**
 * The same, for work on the generation that only one process at a time may do.
 * @throws VmckptError NO_CHECKPOINT, STORE_LOCKED while another process does it, STORE_NOT_WRITABLE
 */
export function holdGenerationFor(work: string, dir: string): GenerationUse {
  const file = useFile(dir, work);
  try {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const lock = LockFile.tryTake(file);
      if (lock !== undefined) return useOf(dir, lock);
      const holder = LockFile.holderOf(file);
      if (holder !== undefined) throw locked(`${generationLabel(dir)} is in use (${work})`, holder);
    }
    throw locked(`${generationLabel(dir)} is in use (${work})`, 0);
  } catch (error) {
    throw errnoOf(error) === 'ENOENT' ? gone(dir) : writeFailure(error, generationLabel(dir));
  }
}

function useFile(dir: string, user: string): string {
  const absolute = path.resolve(dir);
  return path.join(path.dirname(absolute), `${prefixOf(path.basename(absolute))}${user}`);
}

function useOf(dir: string, taken: LockFile | undefined): GenerationUse {
  let lock = taken;
  const release = (): void => {
    if (lock === undefined) return;
    lock.delete();
    lock.release();
    lock = undefined;
    clearStaleUses(path.dirname(path.resolve(dir)));
  };
  // A removal first moves the generation away, then looks for uses: so either it sees this one, or this check fails.
  if (!fs.existsSync(dir)) {
    release();
    throw gone(dir);
  }
  const leaveTo = (pid: number): void => {
    if (lock === undefined) return;
    lock.nameHolder(pid);
    lock.release();
    lock = undefined;
    clearStaleUses(path.dirname(path.resolve(dir)));
  };
  return { fd: taken?.fd, leaveTo, release };
}

function gone(dir: string): VmckptError {
  return new VmckptError('NO_CHECKPOINT', `there is no generation ${dir}`, {
    hint: 'vmckpt list shows all checkpoints.',
  });
}

/** The processes that use a generation; 0 stands for an unknown one. */
export function usersOf(nameDir: string, generation: number): number[] {
  return fs
    .readdirSync(nameDir)
    .filter((file) => file.startsWith(prefixOf(String(generation))))
    .map((file) => LockFile.holderOf(path.join(nameDir, file)))
    .filter((pid) => pid !== undefined);
}

/** The files of uses whose processes have died; none if the folder is missing or unreadable. */
export function staleUses(nameDir: string): string[] {
  try {
    return fs
      .readdirSync(nameDir)
      .filter((file) => file.startsWith(PREFIX))
      .map((file) => path.join(nameDir, file))
      .filter((file) => LockFile.holderOf(file) === undefined);
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return [];
  }
}

/**
 * Deletes each of them while it is locked, because another process may be about to take it. Skips what it may not
 * delete.
 */
export function clearStaleUses(nameDir: string): void {
  for (const file of staleUses(nameDir)) {
    try {
      const lock = LockFile.tryTake(file);
      lock?.delete();
      lock?.release();
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
    }
  }
}

function prefixOf(generation: string): string {
  return `${PREFIX}${generation}-`;
}
