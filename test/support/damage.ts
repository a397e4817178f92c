/** Damages a generation of a store as a bad disk does. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import path from 'node:path';
import { PAGE_CHUNKS, packParts } from '../../src/checkpoint/format.js';
import type { CheckpointReader } from '../../src/checkpoint/reader.js';
import { format2Manifest, ownPack } from './packs.js';

/** Flips a bit in each chunk of the page index that the pack of the generation in `folder` has. */
export function flipPageIndex(folder: string): void {
  const pack = format2Manifest(folder).packs.at(-1)!;
  const { chunksOffset } = packParts(pack);
  for (let chunk = 0; chunk < pack.chunkCount; chunk++)
    flipBit(ownPack(folder), chunksOffset + chunk * PAGE_CHUNKS.chunkBytes);
}

/** Flips a bit in the middle of each extent of the generation in `folder`, which `reader` knows; once more heals it. */
export function flipExtents(folder: string, reader: CheckpointReader, extents: readonly number[]): void {
  for (const extent of extents) {
    const { file, offset, storedBytes } = reader.extentInfo(extent);
    flipBit(path.join(folder, file), offset + Math.floor(storedBytes / 2));
  }
}

function flipBit(file: string, at: number): void {
  const byte = Buffer.alloc(1);
  const fd = openSync(file, 'r+');
  readSync(fd, byte, 0, 1, at);
  byte[0]! ^= 1;
  writeSync(fd, byte, 0, 1, at);
  closeSync(fd);
}
