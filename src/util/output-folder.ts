/** Checks that the folder of an output file exists. */
import { statSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';

/** @throws VmckptError HOST_FILE_MISSING */
export function requireFolderOf(file: string): void {
  const folder = path.dirname(path.resolve(file));
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true) return;
  throw new VmckptError('HOST_FILE_MISSING', `${file} cannot be created: there is no folder ${folder}`, {
    hint: 'Create the folder, or give another path.',
  });
}
