/** Verifies a file of extents: every checksum, and that extents and what lies behind them fill it. */
import { xxh3 } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { readTable, indexDamaged } from './chunk-reader.js';
import type { ProblemList } from './check-problems.js';
import type { FileExtents } from './file-extents.js';
import { readAt } from './files.js';
import {
  CHECKSUM_BYTES,
  HASH_CHUNKS,
  HEADER_BYTES,
  PAGE_CHUNKS,
  checksumText,
  chunkCountOf,
  packFile,
  packParts,
} from './format.js';
import type { NumberedFile } from './generation-catalog.js';
import type { Pack } from './manifest-schema.js';
import type { CheckpointReader } from './reader.js';

/** A divisor of the records in an index chunk, so that a damaged chunk costs no extents beside it. */
const EXTENTS_PER_RUN = 32;
const REQUESTS_AHEAD = 4;

export interface ExtentCheck {
  readonly reader: CheckpointReader;
  readonly source: FileExtents;
  readonly problems: ProblemList;
}

export interface ExtentCheckOptions {
  /** Of this file. */
  readonly onRead: (bytes: number) => void;
  readonly signal: AbortSignal | undefined;
}

interface Places {
  readonly starts: Float64Array;
  readonly ends: Float64Array;
}

/** @returns how many pages its extents hold; undefined when that cannot be told */
export async function checkExtentFile(
  check: ExtentCheck,
  file: NumberedFile,
  { onRead, signal }: ExtentCheckOptions,
): Promise<number | undefined> {
  const { reader, problems } = check;
  const starts = new Float64Array(file.extentCount);
  const ends = new Float64Array(file.extentCount);
  const ahead: Promise<void>[] = [];
  let known = 0;
  let doneBytes = HEADER_BYTES;
  let pageCount = 0;
  try {
    for (const [first, end] of runsOf(file.extentCount)) {
      signal?.throwIfAborted();
      const extents = Array.from({ length: end - first }, (_, index) => file.firstExtent + first + index);
      const infos = await problems.catching(() => extents.map((extent) => reader.extentInfo(extent)));
      if (infos === undefined) continue;
      for (const { offset, pageCount: pages, storedBytes } of infos) {
        starts[known] = offset;
        ends[known++] = offset + storedBytes;
        doneBytes += storedBytes;
        pageCount += pages;
      }
      ahead.push(checkRun(check, extents));
      if (ahead.length > REQUESTS_AHEAD) await ahead.shift();
      onRead(doneBytes);
    }
  } finally {
    await Promise.all(ahead);
  }
  checkPlaces(check, file, { starts: starts.subarray(0, known), ends: ends.subarray(0, known) });
  const fileBytes = await checkBehind(check, file, pageCount);
  onRead(fileBytes);
  return known === file.extentCount ? pageCount : undefined;
}

function* runsOf(extentCount: number): Generator<[first: number, end: number]> {
  for (let first = 0; first < extentCount; first += EXTENTS_PER_RUN)
    yield [first, Math.min(first + EXTENTS_PER_RUN, extentCount)];
}

/** Decodes a run of extents at once, and one by one when one of them is damaged. */
async function checkRun(
  { reader, source, problems }: ExtentCheck,
  extents: readonly number[],
): Promise<void> {
  try {
    (await source.read(extents)).release();
  } catch {
    const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
    for (const extent of extents) await problems.catching(() => reader.readExtent(extent, into));
  }
}

function checkPlaces({ reader, problems }: ExtentCheck, file: NumberedFile, { starts, ends }: Places): void {
  const label = `${reader.label}/${file.name}`;
  // Sorted apart from each other: some extent overlaps another exactly if some start lies before the end before it.
  starts.sort();
  ends.sort();
  let expected = HEADER_BYTES;
  let storedBytes = 0;
  for (const [index, start] of starts.entries()) {
    if (start < expected)
      return problems.add('INDEX_DAMAGED', `${label}: extents overlap at offset ${start}`);
    expected = ends[index]!;
    storedBytes += expected - start;
  }
  if (starts.length < file.extentCount) return;
  const gapBytes = file.endOffset - HEADER_BYTES - storedBytes;
  const isPack = reader.manifest.formatVersion === 2;
  if (isPack ? gapBytes >= HEADER_BYTES || expected !== file.endOffset - gapBytes : gapBytes !== 0)
    problems.add(
      'INDEX_DAMAGED',
      `${label}: extents of ${storedBytes} bytes in room for ${file.endOffset - HEADER_BYTES}`,
    );
  else if (!isZero(file.fd, expected, gapBytes))
    problems.add('INDEX_DAMAGED', `${label}: zeros expected from offset ${expected} to ${file.endOffset}`);
}

function isZero(fd: number, offset: number, length: number): boolean {
  const bytes = Buffer.alloc(length, 1);
  return readAt(fd, bytes, offset) === length && bytes.every((byte) => byte === 0);
}

/** What lies behind the extents and their records. @returns the length of the file */
async function checkBehind(
  { reader, problems }: ExtentCheck,
  file: NumberedFile,
  pageCount: number,
): Promise<number> {
  const { manifest, label } = reader;
  if (manifest.formatVersion === 1) return manifest.pages.fileBytes;
  const pack = manifest.packs.find(({ place }) => place === file.place)!;
  if (pack.pageCount !== pageCount)
    problems.add(
      'INDEX_DAMAGED',
      `${label}/${file.name}: ${pageCount} pages in extents, ${pack.pageCount} expected`,
    );
  const name = `${label}/${packFile(pack.id)}`;
  for (const chunks of chunksOf(pack)) await problems.catching(() => checkChunks(file.fd, chunks, name));
  return pack.fileBytes;
}

interface Chunks {
  readonly offset: number;
  readonly chunkBytes: number;
  readonly count: number;
  readonly tableOffset: number;
  readonly tableBytes: number;
  readonly root: string;
}

/** Those of the page index, also the ones that only other generations refer to, and those with hashes. */
function chunksOf({ pageHashes, ...pack }: Pack): Chunks[] {
  const parts = packParts({ pageHashes, ...pack });
  const ofIndex = {
    offset: parts.chunksOffset,
    chunkBytes: PAGE_CHUNKS.chunkBytes,
    count: pack.chunkCount,
    tableOffset: parts.chunkTableOffset,
    tableBytes: pack.chunkCount * CHECKSUM_BYTES,
    root: pack.chunksRoot,
  };
  if (pageHashes === undefined) return [ofIndex];
  const ofHashes = {
    offset: parts.hashesOffset,
    chunkBytes: HASH_CHUNKS.chunkBytes,
    count: chunkCountOf(HASH_CHUNKS, pack.extentCount * pageHashes.perExtent),
    tableOffset: parts.hashTableOffset,
    tableBytes: parts.hashesOffset - parts.hashTableOffset,
    root: pageHashes.root,
  };
  return [ofHashes, ofIndex];
}

function checkChunks(fd: number, { count, ...chunks }: Chunks, file: string): void {
  const { tableOffset: offset, tableBytes: bytes } = chunks;
  const root = BigInt(`0x${chunks.root}`);
  const table = readTable(fd, { offset, bytes, root, file });
  const chunk = new Uint8Array(chunks.chunkBytes);
  for (let number = 0; number < count; number++) {
    const offset = chunks.offset + number * chunk.length;
    readAt(fd, chunk, offset);
    const expected = table.readBigUInt64LE(number * CHECKSUM_BYTES);
    const found = xxh3(chunk);
    if (found !== expected)
      throw indexDamaged(
        file,
        `chunk ${number} at offset ${offset} has the checksum ${checksumText(found)}, ${checksumText(expected)} expected`,
      );
  }
}
