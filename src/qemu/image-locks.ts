/**
 * Images that another process writes to. QEMU locks bytes of an image for that: the one at 100 + n for a permission that
 * it has, where 1 is to write. A QEMU that is about to be loaded asks for its images only when the VM is to run: too late
 * for a restore to hear of it.
 */
import { closeSync, constants, openSync, statSync } from 'node:fs';
import path from 'node:path';
import { isFileLocked } from '../native/index.js';

const WRITES_AT = 101;

/** Whether some image may be written to by several at once, or is not locked at all: QEMU's own affair then. */
export function sharesImages(args: readonly string[]): boolean {
  return args.some((arg) => /\b(share-rw\W+(on|true)|locking\W+off)\b/.test(arg));
}

/** Those of `files` that somebody writes to, as they were given. */
export function imagesWrittenTo(files: readonly string[], cwd: string): string[] {
  return files.filter((file) => isWrittenTo(path.resolve(cwd, file)));
}

/** False for what is no file (`nbd:…`, `json:{…}`), and for what may not be looked at. @throws VmckptError NATIVE_MISSING */
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
