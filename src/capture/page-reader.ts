/**
 * Reads a VM's pages out of QEMU's process. While the VM runs, the threads read them that store them. While it stands still
 * they are copied into slabs, which takes less time, and stored when it runs again.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { MAX_READS, STRETCH_PAGES, UnreadablePages, type PageStore } from '../checkpoint/stretch.js';
import { WorkerTeam } from '../checkpoint/worker-team.js';
import { presentPages } from '../native/index.js';
import { MAX_BURST_BYTES, PAGE_KINDS, type PageSink } from '../pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../pages/layout.js';
import { joinPages, stretchesOf } from './page-runs.js';
import type { LocatedRamBlock } from './ram-blocks.js';
import { fillSlab, type PageSlab, type ReadRequest } from './page-slab.js';
import type { ReadWorkerData } from './read-worker.js';
import { readingQemu, unreadable } from './refused.js';
import type { PageRuns } from './tracker.js';

const THREADS = 2;
const SLAB_PAGES = MAX_BURST_BYTES / PAGE_BYTES;
/** Their start takes longer than to read so much. */
const MAX_PAGES_WITHOUT_THREADS = 2048;
/** Of a shorter run also pages are read that QEMU does not have: to ask takes longer. */
const MIN_ABSENT_PAGES = 16;
/** On a slow machine. */
const ASSUMED_BYTES_PER_MS = 1 << 20;

/** Pages that were read and are not stored yet. */
export interface FilledSlab {
  readonly slab: PageSlab;
  readonly pages: Uint32Array;
}

export interface ReadOptions {
  readonly store: PageStore;
  /** Called with every stretch that is stored. */
  readonly onRead: (pageCount: number) => void;
  readonly signal: AbortSignal;
}

export class PageReader {
  readonly layout: RamLayout;
  readonly #pid: number;
  readonly #addresses: readonly number[];
  /** Undefined as long as this thread does their work. */
  #team: WorkerTeam<ReadRequest, number> | undefined;
  readonly #free: PageSlab[] = [];
  #readBytes = 0;
  #readMs = 0;

  constructor(pid: number, blocks: readonly LocatedRamBlock[]) {
    this.#pid = pid;
    this.layout = new RamLayout(blocks);
    this.#addresses = blocks.map(({ hostAddress }) => hostAddress);
  }

  /** How fast a thread has read so far. */
  get bytesPerMs(): number {
    return this.#readMs === 0 ? ASSUMED_BYTES_PER_MS : this.#readBytes / this.#readMs;
  }

  get allPages(): PageRuns {
    return Uint32Array.of(0, this.layout.pageCount);
  }

  /**
   * Has pages read and stored as they come: for a VM that runs. What QEMU does not have is zero, and is not touched.
   * @throws VmckptError CAPTURE_REFUSED, QEMU_DIED, FAILED (see readingQemu()); what the store throws; the signal's reason
   */
  async read(runs: PageRuns, { store, onRead, signal }: ReadOptions): Promise<void> {
    const underWay: Promise<void>[] = [];
    try {
      for (const stretch of stretchesOf(runs, STRETCH_PAGES)) {
        signal.throwIfAborted();
        const { present, absent } = this.#split(stretch);
        for (const page of absent) store.fill(page, 0);
        const stored = this.#readInto(store, present).then(() => onRead(stretch.length));
        stored.catch(() => undefined); // told where it is awaited, and to nobody if an earlier one fails
        underWay.push(stored);
        if (underWay.length === MAX_READS) await underWay.shift();
        else await turn();
      }
      while (underWay.length > 0) await underWay.shift();
    } finally {
      await Promise.allSettled(underWay);
    }
  }

  /** Gets ready for pages that are to be kept: their reading need not wait for that. */
  async prepareToKeep(pageCount: number): Promise<void> {
    if (pageCount > MAX_PAGES_WITHOUT_THREADS) await this.#startThreads();
    while (this.#free.length * SLAB_PAGES < pageCount + SLAB_PAGES) this.#free.push(allocateSlab());
  }

  /** Reads pages and keeps them: for a VM that stands still for no longer than that. @throws VmckptError as read() */
  async keep(runs: PageRuns): Promise<FilledSlab[]> {
    return Promise.all([...stretchesOf(runs, SLAB_PAGES)].map((pages) => this.#fill(pages)));
  }

  /** @param except pages of which there are newer versions */
  async store(
    filled: readonly FilledSlab[],
    sink: PageSink,
    except: ReadonlySet<number> = new Set(),
  ): Promise<void> {
    for (const { slab, pages } of filled) {
      await sink.ready();
      let start = 0;
      for (const [position, page] of pages.entries()) {
        const isData = slab.kinds[position] === PAGE_KINDS.data;
        if (except.has(page)) {
          // Its version is left out.
        } else if (isData) sink.data(page, slab.bytes, start);
        else sink.fill(page, slab.fills[position]!);
        if (isData) start += PAGE_BYTES;
      }
    }
  }

  async close(): Promise<void> {
    await this.#team?.close();
  }

  /** Returns when they are at work, if they are started now. */
  async #startThreads(): Promise<void> {
    if (this.#team !== undefined) return;
    const workerData: ReadWorkerData = { pid: this.#pid };
    const team = new WorkerTeam<ReadRequest, number>('capture/read-worker.js', {
      threads: THREADS,
      workerData,
    });
    this.#team = team;
    const nothing = { slab: this.#free[0] ?? allocateSlab(), runs: new BigUint64Array(0) };
    await Promise.all(Array.from({ length: THREADS }, () => team.run(nothing)));
  }

  async #readInto(store: PageStore, pages: Uint32Array): Promise<void> {
    if (pages.length === 0) return;
    try {
      this.#readMs += await store.read(pages, { pid: this.#pid, runs: this.#addressRuns(pages) });
    } catch (error) {
      throw error instanceof UnreadablePages ? unreadable(error) : error;
    }
    this.#readBytes += pages.length * PAGE_BYTES;
  }

  async #fill(pages: Uint32Array): Promise<FilledSlab> {
    const slab = this.#free.pop() ?? allocateSlab();
    const request = { slab, runs: this.#addressRuns(pages) };
    try {
      this.#readMs += await (this.#team?.run(request) ?? fillSlab(this.#pid, request));
    } catch (cause) {
      throw unreadable(cause as NodeJS.ErrnoException);
    }
    this.#readBytes += pages.length * PAGE_BYTES;
    return { slab, pages };
  }

  #split(pages: Uint32Array): { readonly present: Uint32Array; readonly absent: number[] } {
    const present: number[] = [];
    const absent: number[] = [];
    let done = 0;
    const runs = this.#addressRuns(pages);
    for (let at = 0; at < runs.length; at += 2) {
      const end = done + Number(runs[at + 1]!);
      const isPresent =
        end - done < MIN_ABSENT_PAGES ? undefined : this.#presentPages(Number(runs[at]!), end - done);
      for (const first = done; done < end; done++)
        (isPresent?.[done - first] === 0 ? absent : present).push(pages[done]!);
    }
    return { present: Uint32Array.from(present), absent };
  }

  #presentPages(address: number, pageCount: number): Uint8Array {
    return readingQemu(() => presentPages(this.#pid, address, pageCount));
  }

  #addressRuns(pages: Uint32Array): BigUint64Array {
    const addresses: number[] = [];
    for (const page of pages) {
      const { index, firstPage } = this.layout.blockOf(page);
      addresses.push(this.#addresses[index]! + (page - firstPage) * PAGE_BYTES);
    }
    return BigUint64Array.from(joinPages(addresses, PAGE_BYTES), BigInt);
  }
}

function allocateSlab(): PageSlab {
  return {
    // Written to once: the system gives the memory at that moment.
    bytes: new Uint8Array(new SharedArrayBuffer(SLAB_PAGES * PAGE_BYTES)).fill(1),
    kinds: new Uint8Array(new SharedArrayBuffer(SLAB_PAGES)),
    fills: new Uint8Array(new SharedArrayBuffer(SLAB_PAGES)),
  };
}
