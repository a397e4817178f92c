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
  const { pageCount, extentPages } = options;
  const { files } = writer;
  const reader = new PagesReader({ label: 'the checkpoint', pageCount, extentPages }, files);
  const compacted = new PagesWriter(dir, options);
  try {
    if (bytesOfBoth(writer) <= roomBytes) await copyPages(reader, compacted);
    else await movePages(reader, compacted, path.join(dir, files.extentFiles[0]!.name));
    await compacted.drain();
  } catch (error) {
    await compacted.close();
    throw error;
  } finally {
    await writer.discard();
  }
  return compacted;
}

function bytesOfBoth({ counts, storedBytes }: PagesWriter): number {
  return storedBytes * (1 + counts.data / (counts.data + counts.superseded));
}

async function copyPages(reader: PagesReader, writer: PagesWriter): Promise<void> {
  const decoded = new Map<number, Uint8Array>();
  for (let page = 0; page < reader.pageCount; page++) {
    if (page % BURST_PAGES === 0) await writer.ready();
    copyPage(page, { reader, writer, decoded });
  }
}

/** In the order in which they lie in `pagesFile`, the last first: what has been copied is cut off. */
async function movePages(reader: PagesReader, writer: PagesWriter, pagesFile: string): Promise<void> {
  const decoded = new Map<number, Uint8Array>();
  for (const [index, page] of pagesFromTheEnd(reader).entries()) {
    if (index % BURST_PAGES === 0) {
      await writer.ready();
      if (reader.kindOf(page) === PAGE_KINDS.data) await truncate(pagesFile, endOfExtent(reader, page));
    }
    copyPage(page, { reader, writer, decoded });
  }
}

/** All pages; first those without data. */
function pagesFromTheEnd(reader: PagesReader): Uint32Array {
  const places = Float64Array.from({ length: reader.pageCount }, (_, page) =>
    reader.kindOf(page) === PAGE_KINDS.data ? endOfExtent(reader, page) : Number.MAX_VALUE,
  );
  const pages = Uint32Array.from(places, (_, page) => page);
  return pages.sort((one, other) => places[other]! - places[one]! || one - other);
}

function endOfExtent(reader: PagesReader, page: number): number {
  const { offset, storedBytes } = reader.extentInfo(reader.extentOf(page));
  return offset + storedBytes;
}

interface Copying {
  readonly reader: PagesReader;
  readonly writer: PagesWriter;
  readonly decoded: Map<number, Uint8Array>;
}

function copyPage(page: number, { reader, writer, decoded }: Copying): void {
  const kind = reader.kindOf(page);
  if (kind === PAGE_KINDS.data) {
    const bytes = decodedExtent(reader, decoded, reader.extentOf(page));
    writer.data(page, bytes, reader.slotOf(page) * PAGE_BYTES);
  } else if (kind !== PAGE_KINDS.absent) writer.fill(page, reader.fillByteOf(page));
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
