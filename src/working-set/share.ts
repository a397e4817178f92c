/** A generation that is hardly another than the one before has the same hints: the files are shared. */
import fs from 'node:fs';
import { errnoOf } from '../checkpoint/files.js';
import { HOT_PACK_FILE } from '../checkpoint/format.js';
import type { Hints } from '../checkpoint/hints.js';
import { WORKING_SET_FILE } from './file.js';
import { NEXT_PLAN_FILE } from './next-plan.js';

/** The plan is of no use without its working set. */
const FILES = [WORKING_SET_FILE, NEXT_PLAN_FILE, HOT_PACK_FILE];

/** Both lie in one store, and files are only ever replaced. @returns whether there is a working set */
export function shareHints(former: Hints, hints: Hints): boolean {
  const shared = FILES.map((file) => link(former.find(file), hints.place(file)));
  return shared[0] === true;
}

function link(from: string, to: string): boolean {
  try {
    fs.linkSync(from, to);
    return true;
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return false;
  }
}
