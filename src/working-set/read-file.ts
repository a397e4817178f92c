/** Reads a file beside a generation: a hint, whose absence and damage are said in words and never thrown. */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, readAt } from '../checkpoint/files.js';
import type { Opened } from './envelope.js';

/** undefined when there is no such file. Throws only what `decode` does, without an errno. */
export function readHint<T>(
  file: string,
  maxBytes: number,
  decode: (bytes: Buffer) => Opened<T>,
): Opened<T> | undefined {
  let fd: number;
  try {
    // Not to wait for a pipe, nor to follow a link out of the store.
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    return unreadable(error);
  }
  try {
    const found = fs.fstatSync(fd);
    if (!found.isFile()) return { status: 'damaged', problem: `${path.basename(file)} is not a file` };
    if (found.size > maxBytes)
      return { status: 'damaged', problem: `it has ${found.size} bytes, at most ${maxBytes} expected` };
    const bytes = Buffer.alloc(found.size);
    return decode(bytes.subarray(0, readAt(fd, bytes, 0)));
  } catch (error) {
    return unreadable(error);
  } finally {
    fs.closeSync(fd);
  }
}

function unreadable(error: unknown): Opened<never> {
  if (errnoOf(error) === undefined) throw error;
  return { status: 'damaged', problem: error instanceof Error ? error.message : String(error) };
}
