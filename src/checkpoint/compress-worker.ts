/** Worker thread of the pages writer: stores pages that it is given, or told to read (batch-storer.ts). */
import { workerData } from 'node:worker_threads';
import type { Slab } from './batch.js';
import { BatchStorer, type BatchStorerOptions } from './batch-storer.js';
import type { ReadReply, ReadRequest, Stretch } from './stretch.js';
import { answerRequests } from './worker-team.js';

export interface CompressWorkerData extends BatchStorerOptions {
  readonly slabs: readonly Slab[];
  readonly stretches: readonly Stretch[];
}

export type CompressRequest =
  { readonly slab: number; readonly pageCount: number } | (ReadRequest & { readonly stretch: number });

const { slabs, stretches, ...options } = workerData as CompressWorkerData;
const storer = new BatchStorer(options);

answerRequests<CompressRequest, ReadReply | undefined>((request) => {
  if ('stretch' in request) return storer.read(stretches[request.stretch]!, request);
  storer.store(slabs[request.slab]!, request.pageCount);
  return undefined;
});
