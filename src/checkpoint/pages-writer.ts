/**
 * Writes the pages of a generation: a pack, and the table that says where the page index lies. A page that is put is copied
 * once, into the open batch; worker threads compress and write full batches. Batches are settled in their order: their
 * pages then get their extents, unless a newer version of a page has come meanwhile. Pages of a process that runs are not
 * put: these threads read them themselves.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { UNCHANGED_PAGE } from '../native/index.js';
import { MAX_BURST_BYTES, PAGE_KINDS } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { allocateSlab, batchPagesOf, type Slab } from './batch.js';
import type { BaseGeneration } from './base-generation.js';
import type { Level } from './extent-codec.js';
import { writeFailure, writeNewFile } from './files.js';
import {
  GENERATION_FILES,
  NUMBERS_PER_PLACE,
  PAGE_CHUNKS,
  PAGE_CHUNKS_SPEC,
  encodeHeader,
} from './format.js';
import type { Pack } from './manifest-schema.js';
import { PackWriter } from './pack-writer.js';
import { PageEntries, type PageCounts } from './page-entries.js';
import type { ExtentFile, PageFiles } from './page-files.js';
import { StoringThreads } from './storing-threads.js';
import {
  MAX_READS,
  UnreadablePages,
  allocateStretch,
  type PageStore,
  type ReadRequest,
  type Stretch,
} from './stretch.js';

const SLAB_COUNT = 8;
const BURST_PAGES = MAX_BURST_BYTES / PAGE_BYTES;

export interface PagesWriterOptions {
  readonly pageCount: number;
  readonly level: Level;
  /** Pages per extent, 1 to MAX_EXTENT_PAGES. */
  readonly extentPages: number;
  /** What can be taken over. */
  readonly base: BaseGeneration | undefined;
}

export interface WrittenPages {
  /** The packs that were taken over, and last the new one, if it was needed. */
  readonly packs: readonly Pack[];
  /** Length of the new one; 0 if there is none. */
  readonly newPackBytes: number;
  /** Of the table of page chunks. */
  readonly pageIndexRoot: bigint;
  /** Length of the file that has the table. */
  readonly pageChunksBytes: number;
  readonly counts: PageCounts;
}

/** Pages that are stored together. */
interface Batch {
  readonly number: number;
  readonly slab: number;
  pageCount: number;
  isStored: boolean;
}

export class PagesWriter implements PageStore {
  readonly #dir: string;
  readonly #options: PagesWriterOptions;
  readonly #batchPages: number;
  readonly #pack: PackWriter;
  readonly #entries: PageEntries;
  readonly #slabs: readonly Slab[];
  readonly #threads: StoringThreads;
  readonly #freeStretches: number[] = [];
  readonly #stretches: readonly Stretch[];
  readonly #freeSlabs: number[] = [];
  readonly #waiters: { pages: number; resolve: () => void; reject: (error: Error) => void }[] = [];
  #batchCount = 0;
  #open: Batch | undefined;
  /** Batches that threads have, the oldest first. */
  readonly #sent: Batch[] = [];
  #failure: Error | undefined;
  #closed = false;

  constructor(dir: string, options: PagesWriterOptions) {
    const { extentPages, level, pageCount } = options;
    this.#dir = dir;
    this.#options = options;
    this.#batchPages = batchPagesOf(extentPages);
    this.#slabs = Array.from({ length: SLAB_COUNT }, () => allocateSlab(this.#batchPages));
    this.#freeSlabs.push(...this.#slabs.keys());
    const place = options.base?.freePlace ?? 0;
    this.#pack = new PackWriter(dir, { place, extentPages });
    this.#entries = new PageEntries({ pageCount, place, dir, base: options.base });
    const { fd: packFd, tail } = this.#pack;
    this.#stretches = Array.from({ length: MAX_READS }, allocateStretch);
    this.#freeStretches.push(...this.#stretches.keys());
    const workerData = {
      ...{ packFd, slabs: this.#slabs, stretches: this.#stretches, tail, level, extentPages },
      batchPages: this.#batchPages,
    };
    this.#threads = new StoringThreads(workerData, { atOnce: options.base?.isInherited !== true });
  }

  get counts(): PageCounts {
    return this.#entries.counts;
  }

  /** Bytes of extents that have a place in the pack. */
  get storedBytes(): number {
    return this.#pack.storedBytes;
  }

  fill(page: number, byte: number): void {
    this.#entries.setFill(page, byte);
  }

  data(page: number, bytes: Uint8Array, start: number): void {
    const byte = bytes[start]!;
    if (isRepeated(bytes, start, byte)) return this.fill(page, byte);
    this.#put(page, { bytes, start, mayBeSame: true });
  }

  /** Stores a data page, whether it is the same as in the base or not. */
  store(page: number, bytes: Uint8Array, start: number): void {
    this.#put(page, { bytes, start, mayBeSame: false });
  }

  #put(
    page: number,
    { bytes, start, mayBeSame }: { bytes: Uint8Array; start: number; mayBeSame: boolean },
  ): void {
    if (this.#failure !== undefined) return;
    const batch = (this.#open ??= this.#openBatch());
    const { pages, numbers, comparable, formerHashes } = this.#slabs[batch.slab]!;
    let position = this.#entries.positionIn(batch.number, page);
    if (position === undefined) {
      position = batch.pageCount++;
      numbers[position] = page;
      const { base } = this.#options;
      comparable[position] = mayBeSame && base?.hashes.find(page, formerHashes, position) === true ? 1 : 0;
      this.#entries.setPending(page, { batch: batch.number, position });
    }
    pages.set(bytes.subarray(start, start + PAGE_BYTES), position * PAGE_BYTES);
    if (batch.pageCount === this.#batchPages) this.#send(batch);
  }

  async read(pages: Uint32Array, request: ReadRequest): Promise<number> {
    // What was put before is older.
    if (this.#open !== undefined || this.#sent.length > 0) await this.drain();
    const number = this.#freeStretches.pop();
    if (number === undefined) throw new Error('more than MAX_READS stretches are read at once');
    const stretch = this.#stretches[number]!;
    this.#expect(pages, stretch);
    const reply = await this.#threads.read(number, request).catch((error: unknown) => {
      this.#fail(writeFailure(error, 'the checkpoint’s pages'));
      throw this.#failure!;
    });
    if ('unreadable' in reply) throw new UnreadablePages(reply.unreadable);
    this.#settleRead(pages, stretch);
    this.#freeStretches.push(number);
    return reply.readMs;
  }

  #expect(pages: Uint32Array, { expected }: Stretch): void {
    const { base } = this.#options;
    const words = new Uint32Array(expected.buffer);
    for (const [position, page] of pages.entries())
      if (base?.hashes.find(page, words, position) !== true)
        expected.fill(0n, 2 * position, 2 * position + 2);
  }

  /** The page is what it is in the base. */
  inherit(page: number): void {
    this.#entries.inherit(page, this.#options.base!.reader);
  }

  /** The pages that are in one of these packs of the base, ascending. Newer versions may be stored meanwhile. */
  pagesIn(packs: ReadonlySet<Pack>): Generator<number> {
    return this.#entries.pagesIn(new Set([...packs].map(({ place }) => place)));
  }

  /** The numbers of the chunks of the page index with pages that were put. */
  get touchedChunks(): readonly number[] {
    return this.#entries.chunks.touched;
  }

  ready(): Promise<void> {
    return this.#room(BURST_PAGES);
  }

  /** Has every page stored that has come so far. */
  async drain(): Promise<void> {
    if (this.#open !== undefined) this.#send(this.#open);
    await this.#room(SLAB_COUNT * this.#batchPages);
  }

  /** The new pack, as far as it is written. */
  get pack(): ExtentFile {
    return this.#pack.extents;
  }

  /** What is stored so far, to be read while nothing is written. */
  get files(): PageFiles {
    return {
      pages: this.#entries.chunks,
      pagesPerChunk: PAGE_CHUNKS.entriesPerChunk,
      extentFiles: [...(this.#options.base?.extentFiles ?? []), this.#pack.extents],
      numbersPerPlace: NUMBERS_PER_PLACE,
    };
  }

  /** How many data pages lie in each place. Nothing is on its way. */
  get livePages(): ReadonlyMap<number, number> {
    return this.#entries.livePages;
  }

  /**
   * Completes the files and makes them survive a crash of the host.
   * @param dropped packs of the base that no page is in
   */
  async finish(dropped: ReadonlySet<Pack>): Promise<WrittenPages> {
    await this.drain();
    try {
      const { base, pageCount } = this.#options;
      const { chunks } = this.#entries;
      // They go with their packs.
      if (base?.isInherited === true)
        for (const chunk of base.chunksIn(dropped)) chunks.chunkOf(chunk * PAGE_CHUNKS.entriesPerChunk);
      const { pack, table } = this.#pack.finish({ chunks, pageCount, base, dropped });
      const shared = base?.manifest.packs.filter((each) => !dropped.has(each)) ?? [];
      await base?.sharePacks(this.#dir, shared);
      const isNeeded = pack.extentCount + pack.chunkCount > 0;
      if (isNeeded) await this.#pack.sync();
      else await rm(path.join(this.#dir, this.#pack.file));
      const chunkCount = table.bytes.length / PAGE_CHUNKS_SPEC.entryBytes;
      const header = encodeHeader(PAGE_CHUNKS_SPEC, { entryCount: chunkCount });
      const pageChunks = Buffer.concat([header, table.bytes]);
      await writeNewFile(path.join(this.#dir, GENERATION_FILES.pageChunks), pageChunks);
      const pageChunksBytes = pageChunks.length;
      const live = this.livePages;
      const packs = isNeeded ? [...shared, pack] : shared;
      return {
        packs: packs.map((each) => ({ ...each, usedPageCount: live.get(each.place) ?? 0 })),
        newPackBytes: isNeeded ? pack.fileBytes : 0,
        pageIndexRoot: table.root,
        pageChunksBytes,
        counts: this.counts,
      };
    } catch (error) {
      throw writeFailure(error, 'the checkpoint’s pages');
    }
  }

  /** Ends the threads and closes the files, whatever state they are in. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#fail(new Error('the checkpoint writer was closed'));
    await this.#threads.close();
    this.#pack.close();
    this.#entries.chunks.close();
  }

  /** Closes, and deletes what was written. */
  async discard(): Promise<void> {
    await this.close();
    await rm(path.join(this.#dir, this.#pack.file), { force: true });
  }

  #openBatch(): Batch {
    const slab = this.#freeSlabs.pop();
    if (slab === undefined) throw new Error('more than MAX_BURST_BYTES of pages without ready()');
    return { number: this.#batchCount++, slab, pageCount: 0, isStored: false };
  }

  #send(batch: Batch): void {
    this.#open = undefined;
    this.#sent.push(batch);
    const { slab, pageCount } = batch;
    this.#threads
      .store(slab, pageCount)
      .then(() => {
        batch.isStored = true;
        while (this.#sent[0]?.isStored) this.#settle(this.#sent.shift()!);
        this.#wake();
      })
      .catch((error: unknown) => this.#fail(writeFailure(error, 'the checkpoint’s pages')));
  }

  #settle({ number, slab, pageCount }: Batch): void {
    const { extentPages, base } = this.#options;
    const { records, numbers, same, hashes: found } = this.#slabs[slab]!;
    const sameCount = same.subarray(0, pageCount).reduce((sum, one) => sum + one, 0);
    const firstExtent = this.#pack.addExtents(records, Math.ceil((pageCount - sameCount) / extentPages));
    let stored = 0;
    for (let position = 0; position < pageCount; position++) {
      const page = numbers[position]!;
      const from = { batch: number, position };
      if (same[position] === 1) {
        this.#entries.settleSame(page, from, base!.reader);
        continue;
      }
      const slot = stored % extentPages;
      const extent = firstExtent + (stored++ - slot) / extentPages;
      this.#pack.setHash({ extent, slot }, found, position);
      this.#entries.settleStored(page, from, { extent, slot });
    }
    this.#freeSlabs.push(slab);
  }

  #settleRead(pages: Uint32Array, { kinds, fills, hashes, records }: Stretch): void {
    const { extentPages } = this.#options;
    const dataCount = kinds
      .subarray(0, pages.length)
      .reduce((sum, kind) => sum + (kind === PAGE_KINDS.data ? 1 : 0), 0);
    const firstExtent = this.#pack.addExtents(records, Math.ceil(dataCount / extentPages));
    const hashWords = new Uint32Array(hashes.buffer);
    let stored = 0;
    for (const [position, page] of pages.entries()) {
      const kind = kinds[position];
      if (kind === UNCHANGED_PAGE) this.inherit(page);
      else if (kind !== PAGE_KINDS.data) this.fill(page, fills[position]!);
      else {
        const slot = stored % extentPages;
        const extent = firstExtent + (stored++ - slot) / extentPages;
        this.#pack.setHash({ extent, slot }, hashWords, position);
        this.#entries.setStored(page, { extent, slot });
      }
    }
  }

  get #roomPages(): number {
    const open = this.#open === undefined ? 0 : this.#batchPages - this.#open.pageCount;
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

/** Whether a page is one byte over and over. Nearly all other pages show it at the first probes. */
function isRepeated(bytes: Uint8Array, start: number, byte: number): boolean {
  const last = start + PAGE_BYTES - 1;
  if (bytes[last] !== byte || bytes[start + 1] !== byte || bytes[start + PAGE_BYTES / 2] !== byte)
    return false;
  for (let at = start; at < last; at++) if (bytes[at] !== byte) return false;
  return true;
}
