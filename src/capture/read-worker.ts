/**
 * Worker thread of the page reader: fills a slab with pages of the VM, and says what each of them is. Answers how many
 * milliseconds it took.
 */
import { workerData } from 'node:worker_threads';
import { answerRequests } from '../checkpoint/worker-team.js';
import { readPages } from '../native/index.js';

/** In shared memory. The arrays behind `bytes` have an entry for each page that was asked for. */
export interface PageSlab {
  readonly bytes: Uint8Array;
  readonly kinds: Uint8Array;
  readonly fills: Uint8Array;
}

export interface ReadWorkerData {
  readonly pid: number;
}

export interface ReadRequest {
  readonly slab: PageSlab;
  /** (address, pageCount)… */
  readonly runs: BigUint64Array;
}

const { pid } = workerData as ReadWorkerData;

answerRequests<ReadRequest, number>(({ slab, runs }) => {
  const startMs = performance.now();
  const { bytes, kinds, fills } = slab;
  readPages({ pid, runs, into: bytes, kinds, fills });
  return performance.now() - startMs;
});
