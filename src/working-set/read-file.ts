/** Reads a hint, whose absence and damage are returned as text and never thrown. */
import fs from 'node:fs';
import { errnoOf, readAt } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { openRegular } from '../util/regular-file.js';
import type { Opened } from './envelope.js';

/** Undefined when there is no such file. Throws only what `decode` throws, without an errno. */
export function readHint<T>(
  file: string,
  maxBytes: number,
  decode: (bytes: Buffer) => Opened<T>,
): Opened<T> | undefined {
  let fd: number;
  try {
    fd = openRegular(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    return unreadable(error);
  }
  try {
    const { size } = fs.fstatSync(fd);
    if (size > maxBytes)
      return { status: 'damaged', problem: `it has ${size} bytes, expected at most ${maxBytes}` };
    const bytes = Buffer.alloc(size);
    return decode(bytes.subarray(0, readAt(fd, bytes, 0)));
  } catch (error) {
    return unreadable(error);
  } finally {
    fs.closeSync(fd);
  }
}

function unreadable(error: unknown): Opened<never> {
  if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
  return { status: 'damaged', problem: error instanceof Error ? error.message : String(error) };
}
