/** Damages a generation of a store as a bad disk does. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import path from 'node:path';
import type { CheckpointReader } from '../../src/checkpoint/reader.js';

/** Flips a bit in the middle of each extent of the generation in `folder`, which `reader` knows; once more heals it. */
export function flipExtents(folder: string, reader: CheckpointReader, extents: readonly number[]): void {
  const byte = Buffer.alloc(1);
  for (const extent of extents) {
    const { file, offset, storedBytes } = reader.extentInfo(extent);
    const pages = openSync(path.join(folder, file), 'r+');
    const at = offset + Math.floor(storedBytes / 2);
    readSync(pages, byte, 0, 1, at);
    byte[0]! ^= 1;
    writeSync(pages, byte, 0, 1, at);
    closeSync(pages);
  }
}
