/**
 * A stretch of pages of a process that runs: the thread that stores them reads them as well, so that they are copied once
 * and looked at while they are in its processor's cache. What it shares with the thread that gathers pages, in shared memory.
 */
import { PAGE_HASH_BYTES } from '../native/index.js';
import type { PageSink } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { RECORD_CHUNKS } from './format.js';

export const STRETCH_PAGES = 512;
/** Stretches that are read at once: one by each thread, and one that waits for it. */
export const MAX_READS = 4;

/** Stores pages that it is given, or told to read. */
export interface PageStore extends PageSink {
  /**
   * Stores pages of a process, at most STRETCH_PAGES, each as one of `request.runs`. There are never more than MAX_READS
   * calls at once, and no page is put before all have returned. @returns how many milliseconds a thread took to read them
   * @throws UnreadablePages; VmckptError NO_SPACE, FAILED
   */
  read(pages: Uint32Array, request: ReadRequest): Promise<number>;
}

/** The process has ended, or has no memory there any more. */
export class UnreadablePages extends Error {
  /** Of readPages(). */
  readonly code: string | undefined;

  constructor({ message, code }: { readonly message: string; readonly code: string | undefined }) {
    super(message);
    this.code = code;
  }
}

/** The arrays have an entry for each page, in the order in which they are asked for. */
export interface Stretch {
  /** Two numbers for each page: its hash in the generation before. Zeros: it is stored whatever it is. */
  readonly expected: BigUint64Array;
  /** Filled by storing: PAGE_KINDS, or UNCHANGED_PAGE for one that was not stored, */
  readonly kinds: Uint8Array;
  /** what a page repeats, */
  readonly fills: Uint8Array;
  /** two numbers for each page: its hash, */
  readonly hashes: BigUint64Array;
  /** and the records of the extents with the pages of kind `data`, in their order. All but the last are full. */
  readonly records: Uint32Array;
}

export interface ReadRequest {
  readonly pid: number;
  /** (address, pageCount)… */
  readonly runs: BigUint64Array;
}

/** The milliseconds that reading took; or why it could not be done. */
export type ReadReply =
  | { readonly readMs: number }
  | { readonly unreadable: { readonly message: string; readonly code: string | undefined } };

export function allocateStretch(): Stretch {
  const bytes = (perPage: number) => new SharedArrayBuffer(STRETCH_PAGES * perPage);
  return {
    expected: new BigUint64Array(bytes(PAGE_HASH_BYTES)),
    kinds: new Uint8Array(bytes(1)),
    fills: new Uint8Array(bytes(1)),
    hashes: new BigUint64Array(bytes(PAGE_HASH_BYTES)),
    records: new Uint32Array(bytes(RECORD_CHUNKS.entryBytes)),
  };
}

interface Piece {
  /** Position of its first page. */
  readonly first: number;
  readonly count: number;
  readonly runs: BigUint64Array;
}

/** The pages of `runs` in pieces: `room` says how many pages the next one may have, more than none. */
export function* piecesOf(runs: BigUint64Array, room: () => number): Generator<Piece> {
  let piece: bigint[] = [];
  let [first, count] = [0, 0];
  for (let at = 0; at < runs.length; at += 2) {
    let address = runs[at]!;
    for (let left = Number(runs[at + 1]!); left > 0;) {
      const taken = Math.min(left, room() - count);
      piece.push(address, BigInt(taken));
      address += BigInt(taken * PAGE_BYTES);
      left -= taken;
      count += taken;
      if (count < room()) continue;
      yield { first, count, runs: BigUint64Array.from(piece) };
      first += count;
      [piece, count] = [[], 0];
    }
  }
  if (count > 0) yield { first, count, runs: BigUint64Array.from(piece) };
}

/** The entries of a piece's pages. */
export function partOf(
  { expected, kinds, fills, hashes }: Stretch,
  { first, count }: Piece,
): Pick<Stretch, 'expected' | 'kinds' | 'fills' | 'hashes'> {
  const end = first + count;
  return {
    expected: expected.subarray(2 * first, 2 * end),
    kinds: kinds.subarray(first, end),
    fills: fills.subarray(first, end),
    hashes: hashes.subarray(2 * first, 2 * end),
  };
}
