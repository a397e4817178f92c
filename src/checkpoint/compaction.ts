/**
 * Pages that were written again leave their older versions in the pack. Where that is more than a committed
 * generation may carry, its live pages are written anew, in page order, which costs the time of one more pass over
 * them and, until it is done, their room on disk. Where that is more room than there may be, they are written from
 * the end of the file, which is cut off behind them.
 */
import { truncate } from 'node:fs/promises';
import path from 'node:path';
import { MAX_BURST_BYTES, PAGE_KINDS } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { NUMBERS_PER_PLACE, PAGE_CHUNKS } from './format.js';
import type { ExtentFile } from './page-files.js';
import { PagesReader } from './pages-reader.js';
import { PagesWriter, type PagesWriterOptions } from './pages-writer.js';

const MAX_SUPERSEDED_SHARE = 0.1;
const BURST_PAGES = MAX_BURST_BYTES / PAGE_BYTES;
/** Pages that are wanted in page order lie in the order of their arrival, which differs where they were rewritten. */
const CACHED_EXTENTS = 64;

/** A superseded page is counted with all its bytes, although it was stored in fewer. */
export function needsCompaction({ counts, storedBytes }: PagesWriter): boolean {
  return counts.superseded * PAGE_BYTES > storedBytes * MAX_SUPERSEDED_SHARE;
}

export interface CompactionOptions extends PagesWriterOptions {
  /** For both packs, while there are two. */
  readonly roomBytes: number;
}

/** Puts what the drained `writer` has written into another one, without superseded pages. `writer` is discarded. */
export async function compactPages(
  dir: string,
  writer: PagesWriter,
  { roomBytes, ...options }: CompactionOptions,
): Promise<PagesWriter> {
  const { pageCount, base } = options;
  const extentPages = Math.max(options.extentPages, base?.manifest.pages.extentPages ?? 0);
  const { files, pack } = writer;
  const reader = new PagesReader({ label: 'the checkpoint', pageCount, extentPages }, files);
  const compacted = new PagesWriter(dir, options);
  const pages = pagesOf(writer.touchedChunks, pageCount);
  const copying = { reader, writer: compacted, pack, pages, decoded: new Map<number, Uint8Array>() };
  try {
    if (bytesOfBoth(writer) <= roomBytes) await copyPages(copying);
    else await movePages(copying, path.join(dir, pack.name));
    await compacted.drain();
  } catch (error) {
    await compacted.close();
    throw error;
  } finally {
    await writer.discard();
  }
  return compacted;
}

/** All live pages are taken to be in the pack. */
function bytesOfBoth({ counts, storedBytes }: PagesWriter): number {
  return storedBytes * (1 + counts.data / (counts.data + counts.superseded));
}

interface Copying {
  readonly reader: PagesReader;
  readonly writer: PagesWriter;
  /** The pack that is rewritten. */
  readonly pack: ExtentFile;
  /** All that may be in it, ascending. */
  readonly pages: Uint32Array;
  readonly decoded: Map<number, Uint8Array>;
}

function pagesOf(chunks: readonly number[], pageCount: number): Uint32Array {
  const { entriesPerChunk } = PAGE_CHUNKS;
  const pages = new Uint32Array(chunks.length * entriesPerChunk);
  let count = 0;
  for (const chunk of chunks) {
    const first = chunk * entriesPerChunk;
    for (let page = first; page < Math.min(first + entriesPerChunk, pageCount); page++) pages[count++] = page;
  }
  return pages.subarray(0, count);
}

async function copyPages(copying: Copying): Promise<void> {
  for (const [index, page] of copying.pages.entries()) {
    if (index % BURST_PAGES === 0) await copying.writer.ready();
    copyPage(page, copying);
  }
}

/** From the last extent of the file to the first: what is behind it has been copied, and is cut off. */
async function movePages(copying: Copying, packFile: string): Promise<void> {
  for (const [index, page] of pagesFromTheEnd(copying).entries()) {
    if (index % BURST_PAGES === 0) {
      await copying.writer.ready();
      if (isInPack(page, copying)) await truncate(packFile, endOfExtent(copying.reader, page));
    }
    copyPage(page, copying);
  }
}

/** First those that are not in the pack. */
function pagesFromTheEnd(copying: Copying): Uint32Array {
  const { reader, pages } = copying;
  const places = Float64Array.from(pages, (page) =>
    isInPack(page, copying) ? endOfExtent(reader, page) : Number.MAX_VALUE,
  );
  const order = Uint32Array.from(pages.keys());
  order.sort((one, other) => places[other]! - places[one]! || one - other);
  return order.map((at) => pages[at]!);
}

function isInPack(page: number, { reader, pack }: Copying): boolean {
  return (
    reader.kindOf(page) === PAGE_KINDS.data &&
    Math.floor(reader.extentOf(page) / NUMBERS_PER_PLACE) === pack.place
  );
}

function endOfExtent(reader: PagesReader, page: number): number {
  const { offset, storedBytes } = reader.extentInfo(reader.extentOf(page));
  return offset + storedBytes;
}

function copyPage(page: number, copying: Copying): void {
  const { reader, writer, decoded } = copying;
  const kind = reader.kindOf(page);
  if (isInPack(page, copying)) {
    const bytes = decodedExtent(reader, decoded, reader.extentOf(page));
    writer.store(page, bytes, reader.slotOf(page) * PAGE_BYTES);
  } else if (kind === PAGE_KINDS.data) writer.inherit(page);
  else if (kind !== PAGE_KINDS.absent) writer.fill(page, reader.fillByteOf(page));
}

function decodedExtent(reader: PagesReader, decoded: Map<number, Uint8Array>, extent: number): Uint8Array {
  let bytes = decoded.get(extent);
  if (bytes === undefined) {
    bytes =
      decoded.size < CACHED_EXTENTS ? new Uint8Array(reader.extentPages * PAGE_BYTES) : takeOldest(decoded);
    reader.readExtent(extent, bytes);
  } else decoded.delete(extent);
  decoded.set(extent, bytes);
  return bytes;
}

function takeOldest(decoded: Map<number, Uint8Array>): Uint8Array {
  const [extent, bytes] = decoded.entries().next().value!;
  decoded.delete(extent);
  return bytes;
}
