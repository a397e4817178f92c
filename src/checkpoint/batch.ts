/**
 * A batch of pages on its way into a pack: what the thread that gathers pages and the threads that store them share. It is
 * shared memory, so that messages carry only which.
 */
import { PAGE_HASH_BYTES } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { RECORD_CHUNKS } from './format.js';

/** The most pages in a batch: a position in it fits a byte. */
export const MAX_BATCH_PAGES = 128;

export interface Slab {
  readonly pages: Uint8Array;
  /** The page number of each. */
  readonly numbers: Uint32Array;
  /** 1: the page need not be stored if it has this hash, which it had in the generation before. */
  readonly comparable: Uint8Array;
  readonly formerHashes: Uint32Array;
  /** Filled by storing: the hash of each page, */
  readonly hashes: Uint32Array;
  /** 1 for each page that is the same as before, and was left out, */
  readonly same: Uint8Array;
  /** and the records of the extents with the others, in their order. */
  readonly records: Uint32Array;
}

/** How many pages a batch has: whole extents. */
export function batchPagesOf(extentPages: number): number {
  return Math.floor(MAX_BATCH_PAGES / extentPages) * extentPages;
}

export function allocateSlab(batchPages: number): Slab {
  const memory = new SharedArrayBuffer(batchPages * SLAB_BYTES_PER_PAGE);
  let end = 0;
  const room = (bytesPerPage: number): [SharedArrayBuffer, number, number] => {
    const start = end;
    end += bytesPerPage * batchPages;
    return [memory, start, bytesPerPage * batchPages];
  };
  const words = (bytesPerPage: number): Uint32Array => {
    const [buffer, start, bytes] = room(bytesPerPage);
    return new Uint32Array(buffer, start, bytes / 4);
  };
  return {
    pages: new Uint8Array(...room(PAGE_BYTES)),
    records: words(RECORD_CHUNKS.entryBytes),
    hashes: words(PAGE_HASH_BYTES),
    formerHashes: words(PAGE_HASH_BYTES),
    numbers: words(4),
    comparable: new Uint8Array(...room(1)),
    same: new Uint8Array(...room(1)),
  };
}

const SLAB_BYTES_PER_PAGE = PAGE_BYTES + RECORD_CHUNKS.entryBytes + 2 * PAGE_HASH_BYTES + 4 + 1 + 1;
