/**
 * The file `working-set`, a hint (src/checkpoint/hints.ts). Problems with reading or writing it are returned as text
 * and never thrown, because a successful restore must not fail over them.
 */
import { errnoOf, writeAt, writeFailure } from '../checkpoint/files.js';
import type { Hints } from '../checkpoint/hints.js';
import { VmckptError } from '../errors.js';
import { MAX_WORKING_SET_BYTES, decodeWorkingSet, encodeWorkingSet } from './codec.js';
import type { Opened } from './envelope.js';
import { readHint } from './read-file.js';
import { replaceFile } from './replace-file.js';
import { newWorkingSet, type WorkingSet } from './working-set.js';

export const WORKING_SET_FILE = 'working-set';

export interface Known {
  /** Empty when there is none. */
  readonly workingSet: WorkingSet;
  /** Why it could not be read, as a clause for the user. Undefined also when there was never one. */
  readonly problem: string | undefined;
}

/** Never throws, except for bugs. `pageCount` is the checkpoint's. */
export function readWorkingSet(hints: Hints, pageCount: number): Known {
  const found = readWorkingSetFile(hints, (bytes) => decodeWorkingSet(bytes, pageCount));
  if (found?.status === 'ok') return { workingSet: found.value, problem: undefined };
  const problem = found && `the working set is not used: ${found.problem}`;
  return { workingSet: newWorkingSet(pageCount), problem };
}

/**
 * Replaces the working set by the result of `learn` (learnRestore, learnDirtyPages). A damaged one starts anew.
 * @returns undefined when it was written; otherwise why not, as a clause for the user: the store is not writable, the
 *   working set has a newer version, or `learn` found the checkpoint damaged. Never throws, except for bugs.
 */
export async function updateWorkingSet(
  hints: Hints,
  pageCount: number,
  learn: (known: WorkingSet) => WorkingSet,
): Promise<string | undefined> {
  let refusal: string | undefined;
  const write = (fd: number): boolean => {
    const found = readWorkingSetFile(hints, (bytes) => decodeWorkingSet(bytes, pageCount));
    if (found?.status === 'unsupported') {
      refusal = `the working set stays as it is: ${found.problem}`;
      return false;
    }
    const known = found?.status === 'ok' ? found.value : newWorkingSet(pageCount);
    writeAt(fd, encodeWorkingSet(learn(known)), 0);
    return true;
  };
  try {
    await replaceFile(hints.place(WORKING_SET_FILE), write);
    return refusal;
  } catch (error) {
    if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
    return `the working set was not recorded: ${writeFailure(error, hints.find(WORKING_SET_FILE)).message}`;
  }
}

/** Undefined when there is no such file. */
export function readWorkingSetFile<T>(
  hints: Hints,
  decode: (bytes: Buffer) => Opened<T>,
): Opened<T> | undefined {
  return readHint(hints.find(WORKING_SET_FILE), MAX_WORKING_SET_BYTES, decode);
}
