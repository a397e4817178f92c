/**
 * Writes the pages of a generation: a pack, and the table that says where the page index lies. A page is copied once, into
 * the open batch; worker threads compress and write full batches. Batches are settled in their order: their pages then
 * get their extents, unless a newer version of a page has come meanwhile.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { MAX_BURST_BYTES, type PageSink } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { allocateSlab, batchPagesOf, type Slab } from './batch.js';
import type { CompressRequest, CompressWorkerData } from './compress-worker.js';
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
import type { PageFiles } from './page-files.js';
import { WorkerTeam } from './worker-team.js';

const THREADS = 2;
const SLAB_COUNT = 8;
const BURST_PAGES = MAX_BURST_BYTES / PAGE_BYTES;

export interface PagesWriterOptions {
  readonly pageCount: number;
  readonly level: Level;
  /** Pages per extent, 1 to MAX_EXTENT_PAGES. */
  readonly extentPages: number;
}

export interface WrittenPages {
  readonly pack: Pack;
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

export class PagesWriter implements PageSink {
  readonly #dir: string;
  readonly #options: PagesWriterOptions;
  readonly #batchPages: number;
  readonly #pack: PackWriter;
  readonly #entries: PageEntries;
  readonly #slabs: readonly Slab[];
  readonly #team: WorkerTeam<CompressRequest, void>;
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
    this.#pack = new PackWriter(dir, 0);
    this.#entries = new PageEntries(pageCount, dir);
    const { fd: packFd, tail } = this.#pack;
    const workerData: CompressWorkerData = { packFd, slabs: this.#slabs, tail, level, extentPages };
    this.#team = new WorkerTeam('checkpoint/compress-worker.js', { threads: THREADS, workerData });
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
    if (this.#failure !== undefined) return;
    const batch = (this.#open ??= this.#openBatch());
    const { pages, numbers } = this.#slabs[batch.slab]!;
    let position = this.#entries.positionIn(batch.number, page);
    if (position === undefined) {
      position = batch.pageCount++;
      numbers[position] = page;
      this.#entries.setPending(page, { batch: batch.number, position });
    }
    pages.set(bytes.subarray(start, start + PAGE_BYTES), position * PAGE_BYTES);
    if (batch.pageCount === this.#batchPages) this.#send(batch);
  }

  ready(): Promise<void> {
    return this.#room(BURST_PAGES);
  }

  /** Has every page stored that has come so far. */
  async drain(): Promise<void> {
    if (this.#open !== undefined) this.#send(this.#open);
    await this.#room(SLAB_COUNT * this.#batchPages);
  }

  /** What is stored so far, to be read while nothing is written. */
  get files(): PageFiles {
    return {
      pages: this.#entries.chunks,
      pagesPerChunk: PAGE_CHUNKS.entriesPerChunk,
      extentFiles: [this.#pack.extents],
      numbersPerPlace: NUMBERS_PER_PLACE,
    };
  }

  /** Completes the files and makes them survive a crash of the host. */
  async finish(): Promise<WrittenPages> {
    await this.drain();
    try {
      const { pack, table } = this.#pack.finish(this.#entries.chunks, this.#options.pageCount);
      await this.#pack.sync();
      const chunkCount = table.bytes.length / PAGE_CHUNKS_SPEC.entryBytes;
      const header = encodeHeader(PAGE_CHUNKS_SPEC, { entryCount: chunkCount });
      const pageChunks = Buffer.concat([header, table.bytes]);
      await writeNewFile(path.join(this.#dir, GENERATION_FILES.pageChunks), pageChunks);
      const pageChunksBytes = pageChunks.length;
      return { pack, pageIndexRoot: table.root, pageChunksBytes, counts: this.counts };
    } catch (error) {
      throw writeFailure(error, 'the checkpoint’s pages');
    }
  }

  /** Ends the threads and closes the files, whatever state they are in. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#fail(new Error('the checkpoint writer was closed'));
    await this.#team.close();
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
    this.#team
      .run({ slab, pageCount })
      .then(() => {
        batch.isStored = true;
        while (this.#sent[0]?.isStored) this.#settle(this.#sent.shift()!);
        this.#wake();
      })
      .catch((error: unknown) => this.#fail(writeFailure(error, 'the checkpoint’s pages')));
  }

  #settle({ number, slab, pageCount }: Batch): void {
    const { extentPages } = this.#options;
    const { records, numbers } = this.#slabs[slab]!;
    const firstExtent = this.#pack.addExtents(records, Math.ceil(pageCount / extentPages));
    for (let position = 0; position < pageCount; position++) {
      const slot = position % extentPages;
      const extent = firstExtent + (position - slot) / extentPages;
      this.#entries.settle(numbers[position]!, { batch: number, position }, { extent, slot });
    }
    this.#freeSlabs.push(slab);
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
