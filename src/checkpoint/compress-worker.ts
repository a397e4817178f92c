/** Worker thread of the pages writer: stores batches of pages (batch-storer.ts). */
import { workerData } from 'node:worker_threads';
import type { Slab } from './batch.js';
import { BatchStorer, type BatchStorerOptions } from './batch-storer.js';
import { answerRequests } from './worker-team.js';

export interface CompressWorkerData extends BatchStorerOptions {
  readonly slabs: readonly Slab[];
}

export interface CompressRequest {
  readonly slab: number;
  readonly pageCount: number;
}

const { slabs, ...options } = workerData as CompressWorkerData;
const storer = new BatchStorer(options);

answerRequests<CompressRequest, void>(({ slab, pageCount }) => storer.store(slabs[slab]!, pageCount));
