/**
 * Whoever reads a generation for a while (the transfer of a restored VM) holds a use of it, and it is not removed
 * until then. A use is a locked file beside the generation, one for each user, so it ends with its process.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, writeFailure } from '../checkpoint/files.js';
import { generationLabel } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { LockFile, locked } from './lock-file.js';
import { randomU32 } from '../util/random.js';

const PREFIX = '.use-';

export interface GenerationUse {
  /** What a child must inherit to hold the use as well; undefined where nothing can be held. */
  readonly fd: number | undefined;
  /** The use ends with that child, not with this process. */
  leaveTo(pid: number): void;
  /** Once more does nothing. */
  release(): void;
}

/**
 * Keeps the generation in `dir` from being removed. Where nothing can be written (a read-only file system, another
 * user's store) nothing is, and nothing is kept.
 * @throws VmckptError NO_CHECKPOINT when it is gone
 */
export function holdGeneration(dir: string): GenerationUse {
  let lock: LockFile | undefined;
  try {
    lock = LockFile.tryTake(useFile(dir, `${process.pid}-${randomU32().toString(16)}`));
  } catch (error) {
    if (!['EROFS', 'EACCES', 'EPERM', 'ENOENT'].includes(errnoOf(error) ?? '')) throw error;
  }
  return useOf(dir, lock);
}

/**
 * The same for work on the generation that one process at a time may do.
 * @throws VmckptError NO_CHECKPOINT, STORE_LOCKED while another one does it, STORE_NOT_WRITABLE
 */
export function holdGenerationFor(work: string, dir: string): GenerationUse {
  const file = useFile(dir, work);
  try {
    const lock = LockFile.tryTake(file);
    if (lock === undefined)
      throw locked(`${generationLabel(dir)} is in use (${work})`, LockFile.holderOf(file) ?? 0);
    return useOf(dir, lock);
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
    lock?.delete();
    lock?.release();
    lock = undefined;
  };
  // A removal looks for uses after it has moved the generation away: now either it sees this one or we see it.
  if (!fs.existsSync(dir)) {
    release();
    throw gone(dir);
  }
  const leaveTo = (pid: number): void => {
    lock?.nameHolder(pid);
    lock?.release();
    lock = undefined;
  };
  return { fd: taken?.fd, leaveTo, release };
}

function gone(dir: string): VmckptError {
  return new VmckptError('NO_CHECKPOINT', `there is no generation ${dir}`, {
    hint: 'vmckpt list shows what there is',
  });
}

/** The processes that use a generation; 0 stands for one that cannot be told. */
export function usersOf(nameDir: string, generation: number): number[] {
  return fs
    .readdirSync(nameDir)
    .filter((file) => file.startsWith(prefixOf(String(generation))))
    .map((file) => LockFile.holderOf(path.join(nameDir, file)))
    .filter((pid) => pid !== undefined);
}

/** Whether a file of a name's directory is a use that its process has left behind. */
export function isStaleUse(nameDir: string, file: string): boolean {
  return file.startsWith(PREFIX) && LockFile.holderOf(path.join(nameDir, file)) === undefined;
}

function prefixOf(generation: string): string {
  return `${PREFIX}${generation}-`;
}
