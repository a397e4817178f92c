/**
 * Writes the pages of a generation: `pages`, `page-index` and `extent-index`. A page is copied once, into the open
 * batch; full batches are compressed and written by worker threads. A data page's extent number is given out when
 * the page arrives, so the index always knows the newest version of a page, whatever the threads still hold.
 */
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { MAX_BURST_BYTES, PAGE_KINDS, type PageSink } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import type { CompressRequest, CompressWorkerData, Slab } from './compress-worker.js';
import type { Level } from './extent-codec.js';
import { FILE_MODE, writeAt, writeFailure } from './files.js';
import {
  EXTENT_INDEX_SPEC,
  GENERATION_FILES,
  HEADER_BYTES,
  PAGES_SPEC,
  PAGE_INDEX_SPEC,
  dataEntry,
  encodeHeader,
  fillEntry,
} from './format.js';
import { IndexWriter, type WrittenIndex } from './index-writer.js';
import { WorkerTeam } from './worker-team.js';

const THREADS = 2;
const SLAB_COUNT = 8;
const BATCH_BYTES = 512 * 1024;
const BURST_PAGES = MAX_BURST_BYTES / PAGE_BYTES;
/** 16 MiB: the index of 8 GiB of RAM. */
const CACHED_PAGE_CHUNKS = 256;
const CACHED_EXTENT_CHUNKS = 8;

const fsync = promisify(fs.fsync);

export interface PagesWriterOptions {
  readonly pageCount: number;
  readonly level: Level;
  /** Pages per extent, 1 to MAX_EXTENT_PAGES. */
  readonly extentPages: number;
}

export interface PageCounts {
  readonly absent: number;
  readonly zero: number;
  readonly fill: number;
  readonly data: number;
  /** Data pages that were written and then replaced; their bytes are still in `pages`. */
  readonly superseded: number;
}

export interface WrittenPages {
  readonly pageIndex: WrittenIndex;
  readonly extentIndex: WrittenIndex;
  readonly fileBytes: number;
  readonly counts: PageCounts;
}

export class PagesWriter implements PageSink {
  readonly #options: PagesWriterOptions;
  readonly #batchPages: number;
  readonly #pagesFd: number;
  readonly #pageIndex: IndexWriter;
  readonly #extentIndex: IndexWriter;
  readonly #slabs: readonly Slab[];
  readonly #tail = new BigInt64Array(new SharedArrayBuffer(8));
  readonly #team: WorkerTeam<CompressRequest, void>;
  readonly #freeSlabs: number[] = [];
  readonly #waiters: { pages: number; resolve: () => void; reject: (error: Error) => void }[] = [];
  /** Pages by PAGE_KINDS. */
  readonly #counts: [number, number, number, number];
  #superseded = 0;
  #openSlab: number | undefined;
  #openPages = 0;
  /** Number of the open batch's first extent, or of the next batch's while none is open. */
  #openExtent = 0;
  #failure: Error | undefined;
  #closed = false;

  constructor(dir: string, options: PagesWriterOptions) {
    const { extentPages, level, pageCount } = options;
    this.#options = options;
    this.#counts = [pageCount, 0, 0, 0];
    const batchExtents = Math.max(1, Math.floor(BATCH_BYTES / (extentPages * PAGE_BYTES)));
    this.#batchPages = batchExtents * extentPages;
    this.#slabs = Array.from({ length: SLAB_COUNT }, () => allocateSlab(this.#batchPages, batchExtents));
    this.#freeSlabs.push(...this.#slabs.keys());
    this.#pagesFd = fs.openSync(path.join(dir, GENERATION_FILES.pages), 'wx+', FILE_MODE);
    this.#pageIndex = new IndexWriter(
      path.join(dir, GENERATION_FILES.pageIndex),
      PAGE_INDEX_SPEC,
      CACHED_PAGE_CHUNKS,
    );
    this.#extentIndex = new IndexWriter(
      path.join(dir, GENERATION_FILES.extentIndex),
      EXTENT_INDEX_SPEC,
      CACHED_EXTENT_CHUNKS,
    );
    writeAt(this.#pagesFd, encodeHeader(PAGES_SPEC, 0), 0);
    this.#tail[0] = BigInt(HEADER_BYTES);
    const workerData: CompressWorkerData = {
      pagesFd: this.#pagesFd,
      slabs: this.#slabs,
      tail: this.#tail,
      level,
      extentPages,
    };
    this.#team = new WorkerTeam('checkpoint/compress-worker.js', { threads: THREADS, workerData });
  }

  get counts(): PageCounts {
    const [absent, zero, fill, data] = this.#counts;
    return { absent, zero, fill, data, superseded: this.#superseded };
  }

  /** Bytes of extents that have a place in the file. */
  get storedBytes(): number {
    return Number(Atomics.load(this.#tail, 0)) - HEADER_BYTES;
  }

  fill(page: number, byte: number): void {
    this.#setEntry(page, fillEntry(byte), 0);
  }

  data(page: number, bytes: Uint8Array, start: number): void {
    const byte = bytes[start]!;
    if (isRepeated(bytes, start, byte)) return this.fill(page, byte);
    if (this.#failure !== undefined) return;
    if (this.#openSlab === undefined) this.#openBatch();
    const position = this.#openPositionOf(page) ?? this.#takePosition(page);
    const pages = this.#slabs[this.#openSlab!]!.pages;
    pages.set(bytes.subarray(start, start + PAGE_BYTES), position * PAGE_BYTES);
    if (this.#openPages === this.#batchPages) this.#sendBatch();
  }

  ready(): Promise<void> {
    return this.#room(BURST_PAGES);
  }

  /** Writes everything out; the three files are then complete, but not yet durable. */
  async finish(): Promise<WrittenPages> {
    if (this.#openPages > 0) this.#sendBatch();
    await this.#room(SLAB_COUNT * this.#batchPages);
    try {
      const pageIndex = this.#pageIndex.finish(this.#options.pageCount);
      const extentIndex = this.#extentIndex.finish(this.#openExtent);
      const fileBytes = Number(Atomics.load(this.#tail, 0));
      return { pageIndex, extentIndex, fileBytes, counts: this.counts };
    } catch (error) {
      throw writeFailure(error, 'the checkpoint’s pages');
    }
  }

  /** Makes what finish() has written survive a crash of the host. */
  async sync(): Promise<void> {
    await Promise.all([fsync(this.#pagesFd), this.#pageIndex.sync(), this.#extentIndex.sync()]);
  }

  /** Ends the threads and closes the files, whatever state they are in. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#fail(new Error('the checkpoint writer was closed'));
    await this.#team.close();
    fs.closeSync(this.#pagesFd);
    this.#pageIndex.close();
    this.#extentIndex.close();
  }

  /** Where the page lies in the open batch, when its newest version is there: it is then written over. */
  #openPositionOf(page: number): number | undefined {
    const words = this.#pageWords(page);
    const at = (page % PAGE_INDEX_SPEC.entriesPerChunk) * PAGE_INDEX_SPEC.entryWords;
    const entry = words[at]!;
    const extent = words[at + 1]!;
    if ((entry & 0xff) !== PAGE_KINDS.data || extent < this.#openExtent) return undefined;
    return (extent - this.#openExtent) * this.#options.extentPages + ((entry >>> 8) & 0xff);
  }

  #takePosition(page: number): number {
    const { extentPages } = this.#options;
    const position = this.#openPages++;
    const slot = position % extentPages;
    this.#setEntry(page, dataEntry(slot), this.#openExtent + (position - slot) / extentPages);
    return position;
  }

  #setEntry(page: number, entry: number, extent: number): void {
    const words = this.#pageWords(page);
    const at = (page % PAGE_INDEX_SPEC.entriesPerChunk) * PAGE_INDEX_SPEC.entryWords;
    const oldKind = words[at]! & 0xff;
    if (oldKind === PAGE_KINDS.data) this.#superseded++;
    this.#counts[oldKind]!--;
    this.#counts[entry & 0xff]!++;
    words[at] = entry;
    words[at + 1] = extent;
  }

  #pageWords(page: number): Uint32Array {
    if (!(page >= 0 && page < this.#options.pageCount))
      throw new RangeError(`page ${page} lies outside a RAM of ${this.#options.pageCount} pages`);
    try {
      return this.#pageIndex.chunkOf(page);
    } catch (error) {
      throw writeFailure(error, 'the page index');
    }
  }

  #openBatch(): void {
    this.#openSlab = this.#freeSlabs.pop();
    if (this.#openSlab === undefined) throw new Error('more than MAX_BURST_BYTES of pages without ready()');
  }

  #sendBatch(): void {
    const slab = this.#openSlab!;
    const firstExtent = this.#openExtent;
    const pageCount = this.#openPages;
    const extentCount = Math.ceil(pageCount / this.#options.extentPages);
    this.#openSlab = undefined;
    this.#openPages = 0;
    this.#openExtent += extentCount;
    this.#team
      .run({ slab, pageCount })
      .then(() => this.#stored(slab, { firstExtent, extentCount }))
      .catch((error: unknown) => this.#fail(writeFailure(error, 'the checkpoint’s pages')));
  }

  #stored(slab: number, { firstExtent, extentCount }: { firstExtent: number; extentCount: number }): void {
    const { entryWords, entriesPerChunk } = EXTENT_INDEX_SPEC;
    const { records } = this.#slabs[slab]!;
    for (let position = 0; position < extentCount; position++) {
      const extent = firstExtent + position;
      const record = records.subarray(position * entryWords, (position + 1) * entryWords);
      this.#extentIndex.chunkOf(extent).set(record, (extent % entriesPerChunk) * entryWords);
    }
    this.#freeSlabs.push(slab);
    this.#wake();
  }

  get #roomPages(): number {
    const open = this.#openSlab === undefined ? 0 : this.#batchPages - this.#openPages;
    return this.#freeSlabs.length * this.#batchPages + open;
  }

  #room(pages: number): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#roomPages >= pages) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiters.push({ pages, resolve, reject }));
  }

  #wake(): void {
    while (this.#waiters.length > 0 && this.#roomPages >= this.#waiters[0]!.pages)
      this.#waiters.shift()!.resolve();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiters.splice(0)) reject(this.#failure);
  }
}

/** Records lie behind the pages, in the same shared memory. */
function allocateSlab(pageCount: number, extentCount: number): Slab {
  const pagesBytes = pageCount * PAGE_BYTES;
  const memory = new SharedArrayBuffer(pagesBytes + extentCount * EXTENT_INDEX_SPEC.entryBytes);
  return { pages: new Uint8Array(memory, 0, pagesBytes), records: new Uint32Array(memory, pagesBytes) };
}

/** Whether a page is one byte over and over. Nearly all other pages show it at the first probes. */
function isRepeated(bytes: Uint8Array, start: number, byte: number): boolean {
  const last = start + PAGE_BYTES - 1;
  if (bytes[last] !== byte || bytes[start + 1] !== byte || bytes[start + PAGE_BYTES / 2] !== byte)
    return false;
  for (let at = start; at < last; at++) if (bytes[at] !== byte) return false;
  return true;
}
