/**
 * The entries of the pages of a generation that is being made, and how many there are of each kind. A data page on its
 * way into a pack is *pending*: its entry names the batch that has its newest version, and the position there. It gets
 * its extent when the batch is stored, unless a newer version has come meanwhile. An entry can be taken over from the
 * generation before.
 */
import { PAGE_KINDS } from '../pages/contracts.js';
import type { BaseGeneration } from './base-generation.js';
import { ChunkStore } from './chunk-store.js';
import { NUMBERS_PER_PLACE, PAGE_CHUNKS, PLACE_COUNT, dataEntry, fillEntry } from './format.js';
import type { GenerationCatalog } from './generation-catalog.js';
import type { Format2Manifest } from './manifest.js';

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

export interface PageEntriesOptions {
  readonly pageCount: number;
  /** Of the pack that is being written. */
  readonly place: number;
  /** Where there is room for entries that are too many for memory. */
  readonly dir: string;
  readonly base: BaseGeneration | undefined;
}

export class PageEntries {
  readonly chunks: ChunkStore;
  readonly #pageCount: number;
  readonly #place: number;
  /** That all entries are from which were not set. */
  readonly #inherited: BaseGeneration | undefined;
  /** Pages by PAGE_KINDS. */
  readonly #counts: [number, number, number, number];
  /** Data pages that are not pending, by the place of their pack. */
  readonly #live = new Float64Array(PLACE_COUNT);
  #superseded = 0;

  constructor({ pageCount, place, dir, base }: PageEntriesOptions) {
    const inherited = base?.isInherited === true ? base : undefined;
    const begin = inherited && ((number: number, words: Uint32Array) => words.set(inherited.chunk(number)));
    this.#pageCount = pageCount;
    this.#place = place;
    this.#inherited = inherited;
    this.chunks = new ChunkStore({ shape: PAGE_CHUNKS, maxCachedChunks: CACHED_CHUNKS, dir, begin });
    this.#counts = inherited === undefined ? [pageCount, 0, 0, 0] : countsOf(inherited.manifest);
    for (const [at, count] of inherited?.livePages() ?? []) this.#live[at] = count;
  }

  get counts(): PageCounts {
    const [absent, zero, fill, data] = this.#counts;
    return { absent, zero, fill, data, superseded: this.#superseded };
  }

  /** How many data pages lie in each place. None is pending. */
  get livePages(): ReadonlyMap<number, number> {
    return new Map(this.#live.entries());
  }

  /** The data pages whose newest version is in one of these places, ascending. Entries may be set meanwhile. */
  *pagesIn(places: ReadonlySet<number>): Generator<number> {
    for (const [chunk, words] of this.#eachChunk()) {
      const found: number[] = [];
      for (let at = 0; at < words.length; at += PAGE_WORDS)
        if (
          (words[at]! & (PENDING | 0xff)) === PAGE_KINDS.data &&
          places.has(Math.floor(words[at + 1]! / NUMBERS_PER_PLACE))
        )
          found.push(chunk * PAGES_PER_CHUNK + at / PAGE_WORDS);
      yield* found;
    }
  }

  /** Those that have data or something else in them; each is valid until the next. */
  *#eachChunk(): Generator<[chunk: number, words: Uint32Array]> {
    const touched = this.chunks.touched;
    if (this.#inherited === undefined) {
      for (const chunk of touched) yield [chunk, this.chunks.chunkOf(chunk * PAGES_PER_CHUNK)];
      return;
    }
    const isTouched = new Set(touched);
    for (let chunk = 0; chunk * PAGES_PER_CHUNK < this.#pageCount; chunk++)
      yield [
        chunk,
        isTouched.has(chunk) ? this.chunks.chunkOf(chunk * PAGES_PER_CHUNK) : this.#inherited.chunk(chunk),
      ];
  }

  setFill(page: number, byte: number): void {
    this.#set(page, fillEntry(byte), 0);
  }

  setPending(page: number, { batch, position }: BatchPosition): void {
    this.#set(page, dataEntry(position) | PENDING, batch);
  }

  setStored(page: number, { extent, slot }: { extent: number; slot: number }): void {
    this.#set(page, dataEntry(slot), extent);
  }

  /** Takes over what the page is there. */
  inherit(page: number, from: GenerationCatalog): void {
    const [entry, extent] = from.entryOf(page);
    this.#set(page, entry, extent);
  }

  /** Where the page lies in a batch, when its newest version is there. */
  positionIn(batch: number, page: number): number | undefined {
    const words = this.#wordsOf(page);
    const at = (page % PAGES_PER_CHUNK) * PAGE_WORDS;
    const entry = words[at]!;
    return (entry & PENDING) !== 0 && words[at + 1] === batch ? (entry >>> 8) & 0xff : undefined;
  }

  /** The page is stored now. It changes nothing if a newer version has come. */
  settleStored(page: number, from: BatchPosition, { extent, slot }: { extent: number; slot: number }): void {
    this.#settle(page, from, dataEntry(slot), extent);
  }

  /** The page was found to be the same as there, and not stored. */
  settleSame(page: number, from: BatchPosition, base: GenerationCatalog): void {
    const [entry, extent] = base.entryOf(page);
    if ((entry & 0xff) !== PAGE_KINDS.data) throw new Error(`page ${page} has a hash, and no data`);
    // What has replaced it has counted it as superseded, though none of it is in the pack.
    if (!this.#settle(page, from, entry, extent)) this.#superseded--;
  }

  #settle(page: number, { batch, position }: BatchPosition, entry: number, extent: number): boolean {
    if (this.positionIn(batch, page) !== position) return false;
    const words = this.#wordsOf(page);
    const at = (page % PAGES_PER_CHUNK) * PAGE_WORDS;
    words[at] = entry;
    words[at + 1] = extent;
    this.#countLive(entry, extent, 1);
    return true;
  }

  #set(page: number, entry: number, extent: number): void {
    const words = this.#wordsOf(page);
    const at = (page % PAGES_PER_CHUNK) * PAGE_WORDS;
    const oldEntry = words[at]!;
    if (this.#isOwnEntry(oldEntry, words[at + 1]!)) this.#superseded++;
    this.#countLive(oldEntry, words[at + 1]!, -1);
    this.#countLive(entry, extent, 1);
    this.#counts[oldEntry & 0xff]!--;
    this.#counts[entry & 0xff]!++;
    words[at] = entry;
    words[at + 1] = extent;
  }

  #countLive(entry: number, extent: number, change: 1 | -1): void {
    if ((entry & 0xff) === PAGE_KINDS.data && (entry & PENDING) === 0)
      this.#live[Math.floor(extent / NUMBERS_PER_PLACE)]! += change;
  }

  #isOwnEntry(entry: number, extent: number): boolean {
    if ((entry & 0xff) !== PAGE_KINDS.data) return false;
    return (entry & PENDING) !== 0 || Math.floor(extent / NUMBERS_PER_PLACE) === this.#place;
  }

  #wordsOf(page: number): Uint32Array {
    if (page >= 0 && page < this.#pageCount) return this.chunks.chunkOf(page);
    throw new RangeError(`page ${page} lies outside a RAM of ${this.#pageCount} pages`);
  }
}

function countsOf({ pages }: Format2Manifest): [number, number, number, number] {
  const { absentPageCount, zeroPageCount, fillPageCount, dataPageCount } = pages;
  return [absentPageCount, zeroPageCount, fillPageCount, dataPageCount];
}
