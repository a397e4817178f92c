/** Pages of the VM on their way out of QEMU's process. */
import { readPages } from '../native/index.js';

/** In shared memory. The arrays behind `bytes` have an entry for each page that was asked for. */
export interface PageSlab {
  readonly bytes: Uint8Array;
  readonly kinds: Uint8Array;
  readonly fills: Uint8Array;
}

export interface ReadRequest {
  readonly slab: PageSlab;
  /** (address, pageCount)… */
  readonly runs: BigUint64Array;
}

/** Says of each page what it is. @returns how many milliseconds that took */
export function fillSlab(pid: number, { slab, runs }: ReadRequest): number {
  const startMs = performance.now();
  const { bytes, kinds, fills } = slab;
  readPages({ pid, runs, into: bytes, kinds, fills });
  return performance.now() - startMs;
}
