/** What whoever can write a generation could do to it: a checksum shows damage, not malice. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import {
  CHECKSUM_BYTES,
  GENERATION_FILES,
  HEADER_BYTES,
  NUMBERS_PER_PLACE,
  NO_CHUNK,
  PAGE_CHUNKS,
  PAGE_CHUNKS_SPEC,
  RECORD_CHUNKS,
  checksumText,
  packFile,
  packParts,
} from '../../../src/checkpoint/format.js';
import { encodeManifest, type Format2Manifest } from '../../../src/checkpoint/manifest.js';
import { xxh3 } from '../../../src/native/index.js';
import { format2Manifest, ownPack } from '../../support/packs.js';

/** Gives tampered packs checksums that fit, up to the manifest's. */
export function reseal(dir: string): void {
  const manifest = format2Manifest(dir);
  const chunkSums = new Map<number, bigint>();
  for (const pack of manifest.packs) {
    const file = path.join(dir, packFile(pack.id));
    const bytes = readFileSync(file);
    const { recordsOffset, chunksOffset, recordTableOffset, chunkTableOffset } = packParts(pack);
    const sealTable = (start: number, end: number, chunks: { offset: number; chunkBytes: number }) => {
      for (let at = 0; at < (end - start) / CHECKSUM_BYTES; at++) {
        const offset = chunks.offset + at * chunks.chunkBytes;
        const checksum = xxh3(bytes, offset, offset + chunks.chunkBytes);
        bytes.writeBigUInt64LE(checksum, start + at * CHECKSUM_BYTES);
        if (chunks.offset === chunksOffset) chunkSums.set(pack.place * NUMBERS_PER_PLACE + at, checksum);
      }
      return checksumText(xxh3(bytes, start, end));
    };
    const { chunkBytes } = RECORD_CHUNKS;
    pack.recordsRoot = sealTable(recordTableOffset, chunkTableOffset, { offset: recordsOffset, chunkBytes });
    const pageChunks = { offset: chunksOffset, chunkBytes: PAGE_CHUNKS.chunkBytes };
    pack.chunksRoot = sealTable(chunkTableOffset, bytes.length, pageChunks);
    writeFileSync(file, bytes);
  }
  resealTable(dir, manifest, chunkSums);
}

function resealTable(dir: string, manifest: Format2Manifest, chunkSums: ReadonlyMap<number, bigint>): void {
  const file = path.join(dir, GENERATION_FILES.pageChunks);
  const bytes = readFileSync(file);
  for (let at = HEADER_BYTES; at < bytes.length; at += PAGE_CHUNKS_SPEC.entryBytes) {
    const number = bytes.readUInt32LE(at + CHECKSUM_BYTES);
    if (number !== NO_CHUNK) bytes.writeBigUInt64LE(chunkSums.get(number) ?? 0n, at);
  }
  manifest.checksums.pageIndexRoot = checksumText(xxh3(bytes, HEADER_BYTES));
  writeFileSync(file, bytes);
  writeFileSync(path.join(dir, GENERATION_FILES.manifest), encodeManifest(manifest));
}

/** Where the entry of a page lies in the only pack of a full generation. */
export function pageEntryOffset(dir: string, page: number): number {
  const [pack] = format2Manifest(dir).packs;
  return packParts(pack!).chunksOffset + page * PAGE_CHUNKS.entryBytes;
}

/** Gives two pages of data the same place in the same extent. */
export function putInOnePlace(dir: string, page: number, other: number): void {
  const file = ownPack(dir);
  const bytes = readFileSync(file);
  const [from, to] = [page, other].map((each) => pageEntryOffset(dir, each));
  bytes.copyWithin(to!, from!, from! + PAGE_CHUNKS.entryBytes);
  writeFileSync(file, bytes);
  reseal(dir);
}
