/** Makes and checks the contents of a generation's raw memory file (src/checkpoint/raw-memory.ts). */
import fs from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { FileExtents } from '../checkpoint/file-extents.js';
import { FILE_MODE, readAt, writeAt, writeFailure } from '../checkpoint/files.js';
import { generationLabel, readManifest } from '../checkpoint/manifest.js';
import { commitRawMemory, findRawMemory, mainMemoryOf, type RawMemory } from '../checkpoint/raw-memory.js';
import { CheckpointReader } from '../checkpoint/reader.js';
import { VmckptError } from '../errors.js';
import { nextData } from '../native/index.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { PAGE_BYTES, type PlacedRamBlock } from '../pages/layout.js';
import { parkAt } from '../util/park.js';
import { openRegular } from '../util/regular-file.js';
import { formatBytes } from '../util/units.js';
import { decodedSteps, type DecodedStep } from './decoded-steps.js';

const TEMPORARY_FILE = '.raw-memory.tmp';
/** Holes are searched for, and data is read, in pieces of this length. */
const ZERO_PIECE_BYTES = 1 << 20;

const fsync = promisify(fs.fsync);

export interface RawMemoryOptions {
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** An open generation and its main memory. */
interface Opened {
  readonly reader: CheckpointReader;
  readonly extents: FileExtents;
  readonly block: PlacedRamBlock;
}

/** Adjacent data pages. */
interface PageRun {
  readonly firstPage: number;
  readonly pages: readonly Uint8Array[];
}

/**
 * Makes the file. An older file is replaced once the new one is complete; a VM that maps the older one keeps it. Every
 * extent is verified on the way. The caller makes sure that only one process does this at a time. A failure leaves
 * nothing behind.
 * @throws VmckptError MAP_REFUSED, EXTENT_DAMAGED, INDEX_DAMAGED, NO_SPACE, STORE_NOT_WRITABLE, FAILED and what opening a
 *   generation throws; the signal's reason
 */
export async function writeRawMemory(dir: string, options: RawMemoryOptions = {}): Promise<RawMemory> {
  const temporary = path.join(dir, TEMPORARY_FILE);
  return withGeneration(dir, async (opened) => {
    const { manifest } = opened.reader;
    requireSpace(dir, manifest.sizes.nonZeroBytes);
    try {
      await rm(temporary, { force: true });
      await writePages(temporary, opened, options);
      options.signal?.throwIfAborted();
      return await commitRawMemory(dir, temporary, manifest);
    } catch (error) {
      await rm(temporary, { force: true });
      throw options.signal?.aborted === true
        ? error
        : writeFailure(error, `the raw memory of ${generationLabel(dir)}`);
    }
  });
}

/**
 * Compares every byte of the file with the checkpoint. Succeeds if there is no file.
 * @throws VmckptError RAW_MEMORY_CHANGED that names the first difference, EXTENT_DAMAGED, INDEX_DAMAGED; the signal's
 *   reason
 */
export async function checkRawMemory(dir: string, options: RawMemoryOptions = {}): Promise<void> {
  const raw = findRawMemory(dir, readManifest(dir));
  if (raw !== undefined) await withGeneration(dir, (opened) => comparePages(raw.file, opened, options));
}

async function withGeneration<T>(dir: string, use: (opened: Opened) => Promise<T>): Promise<T> {
  const reader = await CheckpointReader.open(dir);
  const extents = new FileExtents(reader);
  try {
    const block = reader.layout.byName(mainMemoryOf(reader.manifest).name)!;
    return await use({ reader, extents, block });
  } finally {
    await extents.close();
    reader.close();
  }
}

function requireSpace(dir: string, neededBytes: number): void {
  const { bavail, bsize } = fs.statfsSync(dir);
  const freeBytes = bavail * bsize;
  if (freeBytes >= neededBytes) return;
  throw new VmckptError(
    'NO_SPACE',
    `the raw memory of ${generationLabel(dir)} needs ${formatBytes(neededBytes)}, ${formatBytes(freeBytes)} are free`,
    { hint: 'Free space on the store’s file system, or delete old generations with vmckpt prune.' },
  );
}

async function writePages(file: string, opened: Opened, options: RawMemoryOptions): Promise<void> {
  const { block } = opened;
  const fd = fs.openSync(file, 'wx', FILE_MODE);
  try {
    fs.ftruncateSync(fd, block.usedBytes);
    for await (const step of stepsOf(opened, options)) {
      for (const { firstPage, pages } of runsOf(step, opened))
        writeAll(fd, pages, (firstPage - block.firstPage) * PAGE_BYTES);
      await parkAt('materializing');
    }
    await fsync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

async function comparePages(file: string, opened: Opened, options: RawMemoryOptions): Promise<void> {
  const { block } = opened;
  const fd = openRegular(file);
  const found = Buffer.alloc(PAGE_BYTES);
  let comparedPage = block.firstPage;
  const requireZerosUpTo = (page: number): void =>
    requireZeros(fd, file, {
      fromBytes: (comparedPage - block.firstPage) * PAGE_BYTES,
      toBytes: (page - block.firstPage) * PAGE_BYTES,
    });
  try {
    for await (const step of stepsOf(opened, options))
      for (const { firstPage, pages } of runsOf(step, opened)) {
        requireZerosUpTo(firstPage);
        for (const [index, page] of pages.entries()) {
          const offset = (firstPage + index - block.firstPage) * PAGE_BYTES;
          if (readAt(fd, found, offset) !== PAGE_BYTES || found.compare(page) !== 0)
            throw differs(file, offset);
        }
        comparedPage = firstPage + pages.length;
      }
    requireZerosUpTo(block.firstPage + block.pageCount);
  } finally {
    fs.closeSync(fd);
  }
}

async function* stepsOf(
  { reader, extents, block }: Opened,
  { onProgress, signal }: RawMemoryOptions,
): AsyncGenerator<DecodedStep, undefined> {
  for await (const step of decodedSteps({
    catalog: reader,
    extents,
    pages: dataPagesOf(reader, block),
    signal,
  })) {
    signal?.throwIfAborted();
    yield step;
    onProgress?.((step.pages.at(-1)! + 1 - block.firstPage) * PAGE_BYTES, block.usedBytes);
  }
}

function* dataPagesOf(reader: CheckpointReader, { firstPage, pageCount }: PlacedRamBlock): Generator<number> {
  for (let page = firstPage; page < firstPage + pageCount; page++) {
    const kind = reader.kindOf(page);
    if (kind === PAGE_KINDS.data || kind === PAGE_KINDS.fill) yield page;
  }
}

function* runsOf(step: DecodedStep, { reader }: Opened): Generator<PageRun, undefined> {
  let firstPage = step.pages[0]!;
  let pages: Uint8Array[] = [];
  for (const page of step.pages) {
    if (page !== firstPage + pages.length) {
      yield { firstPage, pages };
      [firstPage, pages] = [page, []];
    }
    pages.push(bytesOfPage(page, reader, step.bytesOf));
  }
  yield { firstPage, pages };
  return undefined;
}

function bytesOfPage(page: number, reader: CheckpointReader, bytesOf: DecodedStep['bytesOf']): Uint8Array {
  if (reader.kindOf(page) === PAGE_KINDS.fill)
    return new Uint8Array(PAGE_BYTES).fill(reader.fillByteOf(page));
  const start = reader.slotOf(page) * PAGE_BYTES;
  return bytesOf.get(reader.extentOf(page))!.subarray(start, start + PAGE_BYTES);
}

function writeAll(fd: number, pages: readonly Uint8Array[], offset: number): void {
  const written = fs.writevSync(fd, pages, offset);
  if (written === pages.length * PAGE_BYTES) return;
  // A disk that is nearly full writes a part, and reports the reason only on the next write.
  for (const [index, page] of pages.entries()) writeAt(fd, page, offset + index * PAGE_BYTES);
}

function requireZeros(
  fd: number,
  file: string,
  { fromBytes, toBytes }: { readonly fromBytes: number; readonly toBytes: number },
): void {
  for (let at = nextData(fd, fromBytes) ?? toBytes; at < toBytes; at = nextData(fd, at) ?? toBytes) {
    const piece = Buffer.alloc(Math.min(ZERO_PIECE_BYTES, toBytes - at));
    readAt(fd, piece, at);
    const nonZero = piece.findIndex((byte) => byte !== 0);
    if (nonZero >= 0) throw differs(file, at + nonZero);
    at += piece.length;
  }
}

function differs(file: string, offset: number): VmckptError {
  const dir = path.dirname(file);
  const label = generationLabel(dir);
  return new VmckptError(
    'RAW_MEMORY_CHANGED',
    `the raw memory file of ${label} differs from the checkpoint at offset ${offset}`,
    { hint: `Remove ${file}, then make it again: vmckpt materialize ${label.replace('/', '@')}` },
  );
}
