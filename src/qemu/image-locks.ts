/**
 * Finds images that another process writes to. QEMU locks bytes of an image: the byte at 100 + n for a permission
 * that it has, where 1 is writing. A QEMU that waits to be loaded locks its images only when the VM is to run, too
 * late for a restore to learn of a conflict.
 */
import { closeSync, constants, openSync, statSync } from 'node:fs';
import path from 'node:path';
import { isFileLocked } from '../native/index.js';

const WRITES_AT = 101;

/** Whether several processes may write to some image at once, or an image is not locked: that is left to QEMU. */
export function sharesImages(args: readonly string[]): boolean {
  return args.some((arg) => /\b(share-rw\W+(on|true)|locking\W+off)\b/.test(arg));
}

/** Those of `files` that another process writes to, spelled as given. */
export function imagesWrittenTo(files: readonly string[], cwd: string): string[] {
  return files.filter((file) => isWrittenTo(path.resolve(cwd, file)));
}

/**
 * False for names that are not files (`nbd:…`, `json:{…}`), and without permission. @throws VmckptError
 * NATIVE_MISSING
 */
function isWrittenTo(file: string): boolean {
  const fd = openImage(file);
  if (fd === undefined) return false;
  try {
    return isFileLocked(fd, WRITES_AT);
  } finally {
    closeSync(fd);
  }
}

function openImage(file: string): number | undefined {
  try {
    const found = statSync(file);
    if (!found.isFile() && !found.isBlockDevice()) return undefined;
    return openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
}
