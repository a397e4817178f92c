/**
 * Opens files that vmckpt itself has made. Anything else in their place (a link, a FIFO, a device) is refused by
 * name. It is neither followed nor opened: opening a device can have an effect.
 */
import fs from 'node:fs';
import { VmckptError } from '../errors.js';

const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = fs.constants;

/**
 * @param flags O_…; with O_CREAT, only the owner may access the file
 * @throws VmckptError NOT_A_FILE; system errors as they are
 */
export function openRegular(file: string, flags: number = O_RDONLY): number {
  const found = fs.lstatSync(file, { throwIfNoEntry: false });
  if (found !== undefined) requireRegular(file, found);
  const fd = openInPlace(file, flags);
  try {
    requireRegular(file, fs.fstatSync(fd));
    return fd;
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

/** The whole file; undefined when it is longer than `maxBytes`. @throws as openRegular() */
export function readRegular(file: string, maxBytes: number): Buffer | undefined {
  const fd = openRegular(file);
  try {
    return fs.fstatSync(fd).size > maxBytes ? undefined : fs.readFileSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** @throws VmckptError NOT_A_FILE */
export function requireRegular(file: string, found: fs.Stats | fs.BigIntStats): void {
  if (!found.isFile()) throw notAFile(file, kindOf(found));
}

/** Names what was found instead of a regular file. */
export function kindOf(found: fs.Stats | fs.BigIntStats): string {
  if (found.isSymbolicLink()) return 'a symbolic link';
  if (found.isDirectory()) return 'a folder';
  if (found.isFIFO()) return 'a FIFO';
  if (found.isSocket()) return 'a socket';
  return found.isFile() ? 'a file' : 'a device';
}

/** The file may have been replaced since it was checked. */
function openInPlace(file: string, flags: number): number {
  try {
    return fs.openSync(file, flags | O_NOFOLLOW | O_NONBLOCK, 0o600);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ELOOP') throw notAFile(file, 'a symbolic link');
    if (code === 'ENXIO') throw notAFile(file, 'a FIFO or a socket');
    throw error;
  }
}

function notAFile(file: string, found: string): VmckptError {
  return new VmckptError('NOT_A_FILE', `${file} is ${found}, expected a regular file`, {
    hint: 'vmckpt did not make it. Move it away, or restore another generation.',
  });
}
