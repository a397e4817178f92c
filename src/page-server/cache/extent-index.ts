/** Where the extents of one pack lie, in the order of the file, so that what arrives can be verified at once. */
import { readAt } from '../../checkpoint/files.js';
import { RECORD_CHUNKS, chunkCountOf, decodeExtent, packParts } from '../../checkpoint/format.js';
import type { Pack } from '../../checkpoint/manifest-schema.js';
import { xxh3 } from '../../native/index.js';
import type { Span } from './presence-file.js';

const {
  chunkBytes: CHUNK_BYTES,
  entriesPerChunk: ENTRIES_PER_CHUNK,
  entryWords: ENTRY_WORDS,
} = RECORD_CHUNKS;

export class ExtentIndex {
  /** Ascending; the others are in the same order. */
  readonly #offsets: Float64Array;
  readonly #lengths: Uint32Array;
  readonly #checksums: BigUint64Array;

  private constructor(count: number) {
    this.#offsets = new Float64Array(count);
    this.#lengths = new Uint32Array(count);
    this.#checksums = new BigUint64Array(count);
  }

  /** @param fd of the pack, whose records are here and verified */
  static read(fd: number, pack: Pack): ExtentIndex {
    const { recordsOffset } = packParts(pack);
    const bytes = Buffer.alloc(chunkCountOf(RECORD_CHUNKS, pack.extentCount) * CHUNK_BYTES);
    readAt(fd, bytes, recordsOffset);
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const at = (extent: number) =>
      Math.floor(extent / ENTRIES_PER_CHUNK) * (CHUNK_BYTES / 4) + (extent % ENTRIES_PER_CHUNK) * ENTRY_WORDS;
    const extents = Array.from({ length: pack.extentCount }, (_, extent) => decodeExtent(words, at(extent)));
    extents.sort((a, b) => a.offset - b.offset);
    const index = new ExtentIndex(extents.length);
    for (const [number, { offset, storedBytes, checksum }] of extents.entries()) {
      index.#offsets[number] = offset;
      index.#lengths[number] = storedBytes;
      index.#checksums[number] = checksum;
    }
    return index;
  }

  /** The extents that lie in the span, at least in part: their places here. */
  *within({ offset, length }: Span): Generator<number> {
    for (let at = this.#firstBehind(offset); at < this.#offsets.length; at++) {
      if (this.#offsets[at]! >= offset + length) return;
      yield at;
    }
  }

  spanOf(at: number): Span {
    return { offset: this.#offsets[at]!, length: this.#lengths[at]! };
  }

  isSound(at: number, stored: Uint8Array): boolean {
    return xxh3(stored) === this.#checksums[at]!;
  }

  /** The first extent that does not end before `offset`. */
  #firstBehind(offset: number): number {
    let [low, high] = [0, this.#offsets.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#offsets[middle]! + this.#lengths[middle]! <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
