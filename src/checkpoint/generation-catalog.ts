/**
 * The catalogue of a generation: what a page is, in which extent it lies, how the extent is stored. Everything is
 * synchronous, for the path of a demand fault, and verified when it is first used. What the accessors return makes
 * sense: a data page's extent exists and holds its slot.
 */
import { PAGE_KINDS, type PageKind } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import {
  CODECS,
  HEADER_BYTES,
  PAGE_CHUNKS,
  RECORD,
  RECORD_CHUNKS,
  decodeExtent,
  type ExtentInfo,
} from './format.js';
import type { ExtentFile, PageFiles } from './page-files.js';

const { entriesPerChunk: EXTENTS_PER_CHUNK, entryWords: EXTENT_WORDS } = RECORD_CHUNKS;
const { entryWords: PAGE_WORDS } = PAGE_CHUNKS;

export interface CatalogFacts {
  /** Names the generation in messages: `web/3`. */
  readonly label: string;
  readonly pageCount: number;
  /** The most pages that an extent holds. */
  readonly extentPages: number;
}

/** An extent, and where it is read from. */
export interface LocatedExtent extends ExtentInfo {
  /** In its file. */
  readonly number: number;
  readonly fd: number;
  /** Its file's name. */
  readonly file: string;
}

export interface NumberedFile extends ExtentFile {
  /** Its first extent; the others follow. */
  readonly firstExtent: number;
  /** Of its first extent, see ordinalOf(). */
  readonly firstOrdinal: number;
}

export class GenerationCatalog {
  readonly label: string;
  readonly pageCount: number;
  /** In all files. */
  readonly extentCount: number;
  readonly extentPages: number;
  readonly #files: PageFiles;
  readonly #pagesPerChunk: number;
  /** By place. */
  readonly #byPlace: (NumberedFile | undefined)[] = [];

  constructor({ label, pageCount, extentPages }: CatalogFacts, files: PageFiles) {
    this.label = label;
    this.pageCount = pageCount;
    this.extentPages = extentPages;
    this.#files = files;
    this.#pagesPerChunk = files.pagesPerChunk;
    let firstOrdinal = 0;
    for (const file of files.extentFiles) {
      const firstExtent = file.place * files.numbersPerPlace;
      this.#byPlace[file.place] = { ...file, firstExtent, firstOrdinal };
      firstOrdinal += file.extentCount;
    }
    this.extentCount = firstOrdinal;
  }

  /** The two words of a page's entry. */
  entryOf(page: number): readonly [entry: number, extent: number] {
    const entry = this.#entryOf(page);
    return [entry, this.#files.pages.chunkOf(page)[(page % this.#pagesPerChunk) * PAGE_WORDS + 1]!];
  }

  kindOf(page: number): PageKind {
    return (this.#entryOf(page) & 0xff) as PageKind;
  }

  /** The byte that a page of kind `fill` repeats. */
  fillByteOf(page: number): number {
    return this.#entryOf(page) >>> 16;
  }

  /** The extent that holds a data page. */
  extentOf(page: number): number {
    this.#entryOf(page);
    return this.#files.pages.chunkOf(page)[(page % this.#pagesPerChunk) * PAGE_WORDS + 1]!;
  }

  /** A data page's place in its extent, in pages. */
  slotOf(page: number): number {
    const slot = (this.#entryOf(page) >>> 8) & 0xff;
    const extent = this.extentOf(page);
    const { records, firstExtent } = this.#fileOf(extent);
    const number = extent - firstExtent;
    const shapeAt = (number % EXTENTS_PER_CHUNK) * EXTENT_WORDS + RECORD.shape;
    const pageCount = records.chunkOf(number)[shapeAt]! & 0xff;
    if (slot < pageCount) return slot;
    throw this.#files.pages.nonsense(page, `slot ${slot} of extent ${extent}, which has ${pageCount} pages`);
  }

  extentInfo(extent: number): LocatedExtent {
    const { records, firstExtent, fd, name, endOffset } = this.#fileOf(extent);
    const number = extent - firstExtent;
    const words = records.chunkOf(number);
    const at = (number % EXTENTS_PER_CHUNK) * EXTENT_WORDS;
    const fault = extentFault(words, at, { extentPages: this.extentPages, endOffset });
    if (fault !== undefined) throw records.nonsense(number, fault);
    return { ...decodeExtent(words, at), number, fd, file: name };
  }

  /** Numbers the extents of all files from 0 on, without gaps. */
  ordinalOf(extent: number): number {
    const { firstOrdinal, firstExtent } = this.#fileOf(extent);
    return firstOrdinal + (extent - firstExtent);
  }

  /** The files with extents. */
  get extentFiles(): readonly NumberedFile[] {
    return this.#byPlace.filter((file) => file !== undefined);
  }

  #fileOf(extent: number): NumberedFile {
    const file = this.#byPlace[Math.floor(extent / this.#files.numbersPerPlace)];
    if (file !== undefined && extent - file.firstExtent < file.extentCount) return file;
    throw new RangeError(`${this.label}: extent ${extent} asked for, which none of its files has`);
  }

  #entryOf(page: number): number {
    const words = this.#files.pages.chunkOf(page);
    const at = (page % this.#pagesPerChunk) * PAGE_WORDS;
    const entry = words[at]!;
    const fault = this.#pageFault(entry, words[at + 1]!);
    if (fault !== undefined) throw this.#files.pages.nonsense(page, fault);
    return entry;
  }

  /** What is wrong with an entry by itself. */
  #pageFault(entry: number, extent: number): string | undefined {
    const kind = entry & 0xff;
    if (kind !== PAGE_KINDS.data) {
      const allowed = kind === PAGE_KINDS.fill ? 0xff00ff : 0xff;
      if (kind > PAGE_KINDS.data) return `unknown kind ${kind}`;
      return (entry & ~allowed) === 0 && extent === 0 ? undefined : 'bits are set that must be zero';
    }
    if (entry >>> 16 !== 0) return 'bits are set that must be zero';
    const place = Math.floor(extent / this.#files.numbersPerPlace);
    const { firstExtent = 0, extentCount = 0 } = this.#byPlace[place] ?? {};
    if (extent - firstExtent < extentCount) return undefined;
    return `extent ${extent} named, and place ${place} has ${extentCount}`;
  }
}

function extentFault(
  words: Uint32Array,
  at: number,
  { extentPages, endOffset }: { readonly extentPages: number; readonly endOffset: number },
): string | undefined {
  const shape = words[at + RECORD.shape]!;
  const pageCount = shape & 0xff;
  const codec = shape >>> 8;
  const offset = words[at + RECORD.offsetLow]! + words[at + RECORD.offsetHigh]! * 2 ** 32;
  const storedBytes = words[at + RECORD.storedBytes]!;
  if (pageCount < 1 || pageCount > extentPages) return `${pageCount} pages, 1 to ${extentPages} expected`;
  if (codec !== CODECS.raw && codec !== CODECS.zstd) return `unknown codec ${codec}`;
  const pageBytes = pageCount * PAGE_BYTES;
  if (codec === CODECS.raw ? storedBytes !== pageBytes : storedBytes < 1 || storedBytes >= pageBytes)
    return `${storedBytes} bytes stored for ${pageCount} pages`;
  if (offset < HEADER_BYTES || offset + storedBytes > endOffset)
    return `bytes ${offset} to ${offset + storedBytes}, but extents end at ${endOffset}`;
  return words[at + RECORD.reserved] === 0 && words[at + RECORD.reserved + 1] === 0
    ? undefined
    : 'bits are set that must be zero';
}
