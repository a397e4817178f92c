/**
 * A batch of pages on its way into a pack: what the thread that gathers pages and the threads that store them share. It is
 * shared memory, so that messages carry only which.
 */
import { PAGE_BYTES } from '../pages/layout.js';
import { RECORD_CHUNKS } from './format.js';

/** The most pages in a batch: a position in it fits a byte. */
export const MAX_BATCH_PAGES = 128;

export interface Slab {
  readonly pages: Uint8Array;
  /** The page number of each. */
  readonly numbers: Uint32Array;
  /** Of the extents that the pages were stored in, in their order. */
  readonly records: Uint32Array;
}

/** How many pages a batch has: whole extents. */
export function batchPagesOf(extentPages: number): number {
  return Math.floor(MAX_BATCH_PAGES / extentPages) * extentPages;
}

export function allocateSlab(batchPages: number): Slab {
  const pagesBytes = batchPages * PAGE_BYTES;
  const recordsBytes = batchPages * RECORD_CHUNKS.entryBytes;
  const memory = new SharedArrayBuffer(pagesBytes + recordsBytes + batchPages * 4);
  return {
    pages: new Uint8Array(memory, 0, pagesBytes),
    records: new Uint32Array(memory, pagesBytes, recordsBytes / 4),
    numbers: new Uint32Array(memory, pagesBytes + recordsBytes, batchPages),
  };
}
