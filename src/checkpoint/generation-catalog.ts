/**
 * The catalogue of a generation, from its two indexes: what a page is, in which extent it lies, how the extent is stored.
 * Everything is synchronous, for the path of a demand fault, and verified when it is first used. What the accessors
 * return makes sense: a data page's extent exists and holds its slot.
 */
import path from 'node:path';
import { PAGE_KINDS, type PageKind } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import {
  CODECS,
  EXTENT_INDEX_SPEC,
  GENERATION_FILES,
  HEADER_BYTES,
  PAGE_INDEX_SPEC,
  RECORD,
  decodeExtent,
  type ExtentInfo,
} from './format.js';
import { IndexReader, type IndexReaderOptions } from './index-reader.js';
import { generationLabel, openFailure } from './manifest.js';

/** 32 MiB: the index of 16 GiB of RAM. */
const CACHED_PAGE_CHUNKS = 512;
/** 16 MiB: the extents of 16 GiB of RAM, at 8 pages an extent. */
const CACHED_EXTENT_CHUNKS = 256;

const { entriesPerChunk: PAGES_PER_CHUNK, entryWords: PAGE_WORDS } = PAGE_INDEX_SPEC;
const { entriesPerChunk: EXTENTS_PER_CHUNK, entryWords: EXTENT_WORDS } = EXTENT_INDEX_SPEC;

export interface PagesDescription {
  readonly pageCount: number;
  readonly extentCount: number;
  readonly extentPages: number;
  /** Length of the file `pages`. */
  readonly fileBytes: number;
  readonly pageIndexRoot: bigint;
  readonly extentIndexRoot: bigint;
}

export class GenerationCatalog {
  /** Names the generation in messages: `web/3`. */
  readonly label: string;
  readonly pageCount: number;
  readonly extentCount: number;
  /** The most pages that an extent holds. */
  readonly extentPages: number;
  readonly #description: PagesDescription;
  readonly #pageIndex: IndexReader;
  readonly #extentIndex: IndexReader;

  /** @throws VmckptError INDEX_DAMAGED, FORMAT_UNSUPPORTED, FILE_MISSING, NOT_A_FILE, NOT_PERMITTED */
  constructor(dir: string, description: PagesDescription) {
    this.label = generationLabel(dir);
    this.pageCount = description.pageCount;
    this.extentCount = description.extentCount;
    this.extentPages = description.extentPages;
    this.#description = description;
    this.#extentIndex = this.#openIndex(dir, {
      file: GENERATION_FILES.extentIndex,
      spec: EXTENT_INDEX_SPEC,
      entryCount: description.extentCount,
      root: description.extentIndexRoot,
      maxCachedChunks: CACHED_EXTENT_CHUNKS,
    });
    try {
      this.#pageIndex = this.#openIndex(dir, {
        file: GENERATION_FILES.pageIndex,
        spec: PAGE_INDEX_SPEC,
        entryCount: description.pageCount,
        root: description.pageIndexRoot,
        maxCachedChunks: CACHED_PAGE_CHUNKS,
      });
    } catch (error) {
      this.#extentIndex.close();
      throw error;
    }
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
    return this.#pageIndex.chunkOf(page)[(page % PAGES_PER_CHUNK) * PAGE_WORDS + 1]!;
  }

  /** A data page's place in its extent, in pages. */
  slotOf(page: number): number {
    const slot = (this.#entryOf(page) >>> 8) & 0xff;
    const extent = this.extentOf(page);
    const shapeAt = (extent % EXTENTS_PER_CHUNK) * EXTENT_WORDS + RECORD.shape;
    const pageCount = this.#extentIndex.chunkOf(extent)[shapeAt]! & 0xff;
    if (slot < pageCount) return slot;
    throw this.#pageIndex.nonsense(page, `slot ${slot} of extent ${extent}, which has ${pageCount} pages`);
  }

  extentInfo(extent: number): ExtentInfo {
    const words = this.#extentIndex.chunkOf(extent);
    const at = (extent % EXTENTS_PER_CHUNK) * EXTENT_WORDS;
    const fault = extentFault(words, at, this.#description);
    if (fault !== undefined) throw this.#extentIndex.nonsense(extent, fault);
    return decodeExtent(words, at);
  }

  close(): void {
    this.#pageIndex.close();
    this.#extentIndex.close();
  }

  #entryOf(page: number): number {
    const words = this.#pageIndex.chunkOf(page);
    const at = (page % PAGES_PER_CHUNK) * PAGE_WORDS;
    const entry = words[at]!;
    const fault = this.#pageFault(entry, words[at + 1]!);
    if (fault !== undefined) throw this.#pageIndex.nonsense(page, fault);
    return entry;
  }

  #openIndex(
    dir: string,
    { file, ...options }: Omit<IndexReaderOptions, 'path' | 'label'> & { file: string },
  ): IndexReader {
    try {
      return new IndexReader({ ...options, path: path.join(dir, file), label: `${this.label}/${file}` });
    } catch (error) {
      throw openFailure(error, this.label, file);
    }
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
    if (extent >= this.extentCount) return `extent ${extent} named, there are ${this.extentCount}`;
    return undefined;
  }
}

function extentFault(
  words: Uint32Array,
  at: number,
  { extentPages, fileBytes }: Pick<PagesDescription, 'extentPages' | 'fileBytes'>,
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
  if (offset < HEADER_BYTES || offset + storedBytes > fileBytes)
    return `bytes ${offset} to ${offset + storedBytes} of a file of ${fileBytes}`;
  return words[at + RECORD.reserved] === 0 && words[at + RECORD.reserved + 1] === 0
    ? undefined
    : 'bits are set that must be zero';
}
