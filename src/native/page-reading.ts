/** Reads pages of another process, once each: what kind, which hash, and the bytes of those worth storing. */
import { PAGE_BYTES } from '../pages/layout.js';
import { integer, loadAddon } from './addon.js';

export interface PageReadOptions {
  readonly pid: number;
  /** (address, pageCount)…: what to read, in this order. All arrays below have an entry for each of these pages. */
  readonly runs: BigUint64Array;
  /** Room for all pages; the pages of kind `data` end up at its start, in order and without gaps. */
  readonly into: Uint8Array;
  /** Out: PAGE_KINDS.zero, .fill or .data; or UNCHANGED_PAGE. */
  readonly kinds: Uint8Array;
  /** Out: the byte that a fill page repeats, otherwise 0. */
  readonly fills: Uint8Array;
  /**
   * Out: two numbers for each page: the low and the high half of its XXH3-128, and (byte, 1) of a page that repeats one
   * byte (zero as well). A pair of zeros is no page's. Without it no page is hashed, and nothing is expected.
   */
  readonly hashes?: BigUint64Array | undefined;
  /** Hashes of an earlier reading: a page that has the same again is UNCHANGED_PAGE and not among the data. */
  readonly expected?: BigUint64Array | undefined;
}

/** Beside PAGE_KINDS: the page has the hash that was expected. */
export const UNCHANGED_PAGE = 255;

interface PageReadAddon {
  readPages(options: PageReadOptions): number;
}

/**
 * For worker threads: it returns when all is read. The arrays may be views of shared memory. The VM may run: a page is
 * judged by the bytes that are stored of it. @returns how many data pages `into` holds. May fail with a system error:
 * EPERM without the right to ptrace, ESRCH when the process has ended, EFAULT where it has no memory any more.
 */
export function readPages(options: PageReadOptions): number {
  const { pid, runs, into, kinds, fills, hashes, expected } = options;
  const pageCount = pagesOf(runs);
  requireLength('into', into, pageCount * PAGE_BYTES);
  for (const [name, array] of Object.entries({ kinds, fills })) requireLength(name, array, pageCount);
  for (const [name, array] of Object.entries({ hashes, expected }))
    if (array !== undefined) requireLength(name, array, 2 * pageCount);
  return loadAddon<PageReadAddon>().readPages({
    pid: integer('pid', pid, { min: 1 }),
    ...{ runs, into, kinds, fills, hashes, expected },
  });
}

function pagesOf(runs: BigUint64Array): number {
  let count = 0;
  for (let at = 1; at < runs.length; at += 2) count += Number(runs[at]!);
  return integer('the number of pages', count);
}

function requireLength(name: string, { length }: { readonly length: number }, wanted: number): void {
  if (length < wanted) throw new RangeError(`${name} has room for ${length}, ${wanted} needed`);
}
