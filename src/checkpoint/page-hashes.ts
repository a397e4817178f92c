/**
 * The hashes of the pages in the packs of a generation, read as they are asked for: a page with the same hash is not
 * stored again. Where there is none, or it is damaged, the page is stored.
 */
import { VmckptError } from '../errors.js';
import { PAGE_HASH_BYTES } from '../native/index.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { ChunkReader, readTable } from './chunk-reader.js';
import { CHECKSUM_BYTES, HASH_CHUNKS, NUMBERS_PER_PLACE, packFile, packParts } from './format.js';
import type { GenerationCatalog } from './generation-catalog.js';
import type { Pack } from './manifest-schema.js';
import type { ExtentFile } from './page-files.js';

const HASH_WORDS = PAGE_HASH_BYTES / 4;
/** Of one pack: the hashes of 1 GiB of RAM. */
const CACHE_BYTES = 4 << 20;

interface PackHashes {
  readonly perExtent: number;
  readonly chunks: ChunkReader;
}

export interface PageHashesOptions {
  /** Names the generation in messages. */
  readonly label: string;
  readonly catalog: GenerationCatalog;
  readonly packs: readonly Pack[];
  readonly extentFiles: readonly ExtentFile[];
}

export class PageHashes {
  readonly #options: PageHashesOptions;
  /** By place, if it was asked for; undefined where the pack has none, or none that can be read. */
  readonly #packs = new Map<number, PackHashes | undefined>();

  constructor(options: PageHashesOptions) {
    this.#options = options;
  }

  /** Copies the hash of a page to `into[at * HASH_WORDS …]`. @returns false where there is none to be had */
  find(page: number, into: Uint32Array, at: number): boolean {
    try {
      const { catalog } = this.#options;
      const [entry, extent] = catalog.entryOf(page);
      if ((entry & 0xff) !== PAGE_KINDS.data) return false;
      const place = Math.floor(extent / NUMBERS_PER_PLACE);
      if (!this.#packs.has(place)) this.#packs.set(place, this.#open(place));
      const pack = this.#packs.get(place);
      const slot = (entry >>> 8) & 0xff;
      if (pack === undefined || slot >= pack.perExtent) return false;
      const number = (extent % NUMBERS_PER_PLACE) * pack.perExtent + slot;
      const from = (number % HASH_CHUNKS.entriesPerChunk) * HASH_WORDS;
      into.set(pack.chunks.chunkOf(number).subarray(from, from + HASH_WORDS), at * HASH_WORDS);
      return true;
    } catch (error) {
      if (error instanceof VmckptError) return false;
      throw error;
    }
  }

  #open(place: number): PackHashes | undefined {
    const { packs, extentFiles, label } = this.#options;
    const pack = packs.find((each) => each.place === place);
    const fd = extentFiles.find((each) => each.place === place)?.fd;
    if (pack?.pageHashes === undefined || fd === undefined) return undefined;
    const { perExtent, root } = pack.pageHashes;
    const file = `${label}/${packFile(pack.id)}`;
    const entryCount = pack.extentCount * perExtent;
    const { hashTableOffset: offset, hashesOffset } = packParts(pack);
    const bytes = hashesOffset - offset;
    try {
      const table = readTable(fd, { offset, bytes, root: BigInt(`0x${root}`), file });
      const placeOf = (chunk: number) => ({
        ...{ fd, file, offset: hashesOffset + chunk * HASH_CHUNKS.chunkBytes },
        checksum: table.readBigUInt64LE(chunk * CHECKSUM_BYTES),
      });
      const maxCachedChunks = CACHE_BYTES / HASH_CHUNKS.chunkBytes;
      const chunks = new ChunkReader({
        label: file,
        shape: HASH_CHUNKS,
        entryCount,
        placeOf,
        maxCachedChunks,
      });
      return { perExtent, chunks };
    } catch (error) {
      if (error instanceof VmckptError) return undefined;
      throw error;
    }
  }
}
