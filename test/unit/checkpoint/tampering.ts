/** What whoever can write a generation could do to it: a checksum shows damage, not malice. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import {
  CHUNK_BYTES,
  GENERATION_FILES,
  HEADER_BYTES,
  PAGE_INDEX_SPEC,
} from '../../../src/checkpoint/format.js';
import { encodeManifest, readManifest } from '../../../src/checkpoint/manifest.js';
import { xxh3 } from '../../../src/native/index.js';

/** Gives a tampered index checksums that fit, up to the manifest's. */
export function reseal(dir: string): void {
  const manifest = readManifest(dir);
  for (const [file, root] of [
    [GENERATION_FILES.pageIndex, 'pageIndexRoot'],
    [GENERATION_FILES.extentIndex, 'extentIndexRoot'],
  ] as const) {
    const bytes = readFileSync(path.join(dir, file));
    const chunkCount = Math.floor((bytes.length - HEADER_BYTES) / CHUNK_BYTES);
    const table = bytes.subarray(HEADER_BYTES + chunkCount * CHUNK_BYTES);
    for (let chunk = 0; chunk < chunkCount; chunk++) {
      const start = HEADER_BYTES + chunk * CHUNK_BYTES;
      table.writeBigUInt64LE(xxh3(bytes, start, start + CHUNK_BYTES), chunk * 8);
    }
    manifest.checksums[root] = xxh3(table).toString(16).padStart(16, '0');
    writeFileSync(path.join(dir, file), bytes);
  }
  writeFileSync(path.join(dir, GENERATION_FILES.manifest), encodeManifest(manifest));
}

/** Gives two pages of data the same place in the same extent. */
export function putInOnePlace(dir: string, page: number, other: number): void {
  const file = path.join(dir, GENERATION_FILES.pageIndex);
  const index = readFileSync(file);
  const [from, to] = [page, other].map((each) => HEADER_BYTES + each * PAGE_INDEX_SPEC.entryBytes);
  index.copyWithin(to!, from!, from! + PAGE_INDEX_SPEC.entryBytes);
  writeFileSync(file, index);
  reseal(dir);
}
