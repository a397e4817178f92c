/**
 * The entries of the pages of a generation that is being made, and how many there are of each kind. A data page on its
 * way into a pack is *pending*: its entry names the batch that has its newest version, and the position there. It gets
 * its extent when the batch is stored, unless a newer version has come meanwhile.
 */
import { PAGE_KINDS } from '../pages/contracts.js';
import { ChunkStore } from './chunk-store.js';
import { PAGE_CHUNKS, dataEntry, fillEntry } from './format.js';

/** 16 MiB: the index of 8 GiB of RAM. */
const CACHED_CHUNKS = 1024;
/** A bit of the first word that no finished entry has. The second word is the batch's number then. */
const PENDING = 1 << 24;

const { entriesPerChunk: PAGES_PER_CHUNK, entryWords: PAGE_WORDS } = PAGE_CHUNKS;

export interface PageCounts {
  readonly absent: number;
  readonly zero: number;
  readonly fill: number;
  readonly data: number;
  /** Data pages that were written and then replaced; their bytes are still in the pack. */
  readonly superseded: number;
}

/** Where a pending page lies. */
export interface BatchPosition {
  readonly batch: number;
  readonly position: number;
}

export class PageEntries {
  readonly pageCount: number;
  readonly chunks: ChunkStore;
  /** Pages by PAGE_KINDS. */
  readonly #counts: [number, number, number, number];
  #superseded = 0;

  /** @param dir where there is room for entries that are too many for memory */
  constructor(pageCount: number, dir: string) {
    this.pageCount = pageCount;
    this.chunks = new ChunkStore({ shape: PAGE_CHUNKS, maxCachedChunks: CACHED_CHUNKS, dir });
    this.#counts = [pageCount, 0, 0, 0];
  }

  get counts(): PageCounts {
    const [absent, zero, fill, data] = this.#counts;
    return { absent, zero, fill, data, superseded: this.#superseded };
  }

  setFill(page: number, byte: number): void {
    this.#set(page, fillEntry(byte), 0);
  }

  setPending(page: number, { batch, position }: BatchPosition): void {
    this.#set(page, dataEntry(position) | PENDING, batch);
  }

  /** Where the page lies in a batch, when its newest version is there. */
  positionIn(batch: number, page: number): number | undefined {
    const words = this.#wordsOf(page);
    const at = (page % PAGES_PER_CHUNK) * PAGE_WORDS;
    const entry = words[at]!;
    return (entry & PENDING) !== 0 && words[at + 1] === batch ? (entry >>> 8) & 0xff : undefined;
  }

  /** The page is stored now, unless a newer version has come. */
  settle(page: number, { batch, position }: BatchPosition, stored: { extent: number; slot: number }): void {
    if (this.positionIn(batch, page) !== position) return;
    const words = this.#wordsOf(page);
    const at = (page % PAGES_PER_CHUNK) * PAGE_WORDS;
    words[at] = dataEntry(stored.slot);
    words[at + 1] = stored.extent;
  }

  #set(page: number, entry: number, extent: number): void {
    const words = this.#wordsOf(page);
    const at = (page % PAGES_PER_CHUNK) * PAGE_WORDS;
    const oldKind = words[at]! & 0xff;
    if (oldKind === PAGE_KINDS.data) this.#superseded++;
    this.#counts[oldKind]!--;
    this.#counts[entry & 0xff]!++;
    words[at] = entry;
    words[at + 1] = extent;
  }

  #wordsOf(page: number): Uint32Array {
    if (page >= 0 && page < this.pageCount) return this.chunks.chunkOf(page);
    throw new RangeError(`page ${page} lies outside a RAM of ${this.pageCount} pages`);
  }
}
