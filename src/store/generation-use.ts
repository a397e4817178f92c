/**
 * Whoever reads a generation for a while (the transfer of a restored VM) holds a use of it, and it is not removed
 * until then. A use is a locked file beside the generation, one for each user, so it ends with its process.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { LockFile } from './lock-file.js';

const PREFIX = '.use-';

export interface GenerationUse {
  /** Once more does nothing. */
  release(): void;
}

/**
 * Keeps the generation in `dir` from being removed. Where nothing can be written (a read-only file system, another
 * user's store) nothing is, and nothing is kept.
 * @throws VmckptError NO_CHECKPOINT when it is gone
 */
export function holdGeneration(dir: string): GenerationUse {
  const nameDir = path.dirname(path.resolve(dir));
  const file = `${prefixOf(path.basename(dir))}${process.pid}-${randomBytes(4).toString('hex')}`;
  let lock: LockFile | undefined;
  try {
    lock = LockFile.tryTake(path.join(nameDir, file));
  } catch (error) {
    if (!['EROFS', 'EACCES', 'EPERM', 'ENOENT'].includes(errnoOf(error) ?? '')) throw error;
  }
  const release = (): void => {
    lock?.delete();
    lock?.release();
    lock = undefined;
  };
  // A removal looks for uses after it has moved the generation away: now either it sees this one or we see it.
  if (!fs.existsSync(dir)) {
    release();
    throw new VmckptError('NO_CHECKPOINT', `there is no generation ${dir}`, {
      hint: 'vmckpt list shows what there is',
    });
  }
  return { release };
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
