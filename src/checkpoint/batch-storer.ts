/**
 * Stores pages, in any thread: hashes them, leaves out those that are the same as in the generation before, compresses the
 * others as extents, and writes these with one system call where there is room at the tail of the pack.
 */
import { PAGE_HASH_BYTES, hashPages, readPages, syncFileRange, xxh3 } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import type { Slab } from './batch.js';
import { ExtentEncoder, encodeBound, type Level, type StoredExtent } from './extent-codec.js';
import { writeAt } from './files.js';
import { RECORD_CHUNKS, encodeExtent } from './format.js';
import { partOf, piecesOf, type ReadReply, type ReadRequest, type Stretch } from './stretch.js';

/** Write-out starts this far behind the tail, so that the fsync at the end has little left to do. */
const WRITE_OUT_BYTES = 8 << 20;
const HASH_WORDS = PAGE_HASH_BYTES / 4;

export interface BatchStorerOptions {
  readonly packFd: number;
  /** Length of the pack so far, in its only element; shared by all threads. */
  readonly tail: BigInt64Array;
  readonly level: Level;
  readonly extentPages: number;
  /** The most pages that a batch has. */
  readonly batchPages: number;
}

export class BatchStorer {
  readonly #options: BatchStorerOptions;
  readonly #encoder: ExtentEncoder;
  readonly #stored: Uint8Array;
  /** Pages that were read and are to be stored. */
  #readPages: Uint8Array | undefined;

  constructor(options: BatchStorerOptions) {
    const { level, extentPages, batchPages } = options;
    this.#options = options;
    this.#encoder = new ExtentEncoder(level);
    this.#stored = new Uint8Array(batchPages * PAGE_BYTES + encodeBound(extentPages * PAGE_BYTES));
  }

  /** Stores the first `pageCount` pages of the slab, and fills the rest of it. */
  store(slab: Slab, pageCount: number): void {
    this.#write(slab.pages, this.#leaveOutSame(slab, pageCount), slab.records);
  }

  /** Reads pages of a process, stores those that are not as expected, and fills the rest of the stretch. */
  read(stretch: Stretch, { pid, runs }: ReadRequest): ReadReply {
    const { batchPages, extentPages } = this.#options;
    const pages = (this.#readPages ??= new Uint8Array(batchPages * PAGE_BYTES));
    let [kept, stored, readMs] = [0, 0, 0];
    const writeKept = (): void => {
      const at = (stored / extentPages) * RECORD_CHUNKS.entryWords;
      this.#write(pages, kept, stretch.records.subarray(at));
      stored += kept;
      kept = 0;
    };
    for (const piece of piecesOf(runs, () => batchPages - kept)) {
      const startMs = performance.now();
      const into = pages.subarray(kept * PAGE_BYTES);
      try {
        kept += readPages({ pid, runs: piece.runs, into, ...partOf(stretch, piece) });
      } catch (error) {
        const { message, code } = error as NodeJS.ErrnoException;
        return { unreadable: { message, code } };
      }
      readMs += performance.now() - startMs;
      if (kept === batchPages) writeKept();
    }
    writeKept();
    return { readMs };
  }

  /** Stores the first `pageCount` pages, and notes their extents. */
  #write(pages: Uint8Array, pageCount: number, records: Uint32Array): void {
    const extents = this.#encode(pages, pageCount);
    const batchBytes = extents.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
    if (batchBytes === 0) return;
    const { packFd, tail, extentPages } = this.#options;
    const offset = Number(Atomics.add(tail, 0, BigInt(batchBytes)));
    writeAt(packFd, this.#stored.subarray(0, batchBytes), offset);
    this.#startWriteOut(offset, offset + batchBytes);
    let at = 0;
    for (const [position, { storedBytes, codec }] of extents.entries()) {
      encodeExtent(records, position * RECORD_CHUNKS.entryWords, {
        offset: offset + at,
        storedBytes,
        codec,
        pageCount: Math.min(extentPages, pageCount - position * extentPages),
        checksum: xxh3(this.#stored, at, at + storedBytes),
      });
      at += storedBytes;
    }
  }

  /** Brings the pages together that are to be stored. @returns how many */
  #leaveOutSame({ pages, hashes, formerHashes, comparable, same }: Slab, pageCount: number): number {
    same.fill(0, 0, pageCount);
    hashPages(pages, pageCount, new Uint8Array(hashes.buffer, hashes.byteOffset, hashes.byteLength));
    let kept = 0;
    for (let position = 0; position < pageCount; position++) {
      if (comparable[position] === 1 && isSameHash(hashes, formerHashes, position)) {
        same[position] = 1;
        continue;
      }
      if (kept < position)
        pages.copyWithin(kept * PAGE_BYTES, position * PAGE_BYTES, (position + 1) * PAGE_BYTES);
      kept++;
    }
    return kept;
  }

  #encode(pages: Uint8Array, pageCount: number): StoredExtent[] {
    const extentBytes = this.#options.extentPages * PAGE_BYTES;
    const extents: StoredExtent[] = [];
    let batchBytes = 0;
    for (let start = 0; start < pageCount * PAGE_BYTES; start += extentBytes) {
      const end = Math.min(start + extentBytes, pageCount * PAGE_BYTES);
      const extent = this.#encoder.encode(pages.subarray(start, end), this.#stored.subarray(batchBytes));
      extents.push(extent);
      batchBytes += extent.storedBytes;
    }
    return extents;
  }

  /** Whoever writes across a boundary starts the window before it, by now whole but for a straggler's batch. */
  #startWriteOut(start: number, end: number): void {
    const window = Math.floor(end / WRITE_OUT_BYTES);
    if (window > Math.floor(start / WRITE_OUT_BYTES))
      syncFileRange(this.#options.packFd, (window - 1) * WRITE_OUT_BYTES, WRITE_OUT_BYTES);
  }
}

/** A hash of zeros stands for none. */
function isSameHash(hashes: Uint32Array, former: Uint32Array, position: number): boolean {
  let bits = 0;
  for (let at = position * HASH_WORDS, end = at + HASH_WORDS; at < end; at++) {
    if (hashes[at] !== former[at]) return false;
    bits |= former[at]!;
  }
  return bits !== 0;
}
