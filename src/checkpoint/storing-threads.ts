/** Who compresses and writes pages: threads, or this one as long as there is too little for threads, whose start takes longer. */
import { BatchStorer } from './batch-storer.js';
import type { CompressRequest, CompressWorkerData } from './compress-worker.js';
import type { ReadReply, ReadRequest } from './stretch.js';
import { WorkerTeam } from './worker-team.js';

const THREADS = 2;
const MAX_BATCHES_WITHOUT_THREADS = 8;

export class StoringThreads {
  readonly #workerData: CompressWorkerData;
  #team: WorkerTeam<CompressRequest, ReadReply | undefined> | undefined;
  #storer: BatchStorer | undefined;
  #batchCount = 0;

  /** @param atOnce whether there will be more than a few pages */
  constructor(workerData: CompressWorkerData, { atOnce }: { readonly atOnce: boolean }) {
    this.#workerData = workerData;
    if (atOnce) this.#started();
  }

  async store(slab: number, pageCount: number): Promise<void> {
    if (this.#team === undefined && ++this.#batchCount <= MAX_BATCHES_WITHOUT_THREADS) {
      this.#storer ??= new BatchStorer(this.#workerData);
      this.#storer.store(this.#workerData.slabs[slab]!, pageCount);
    } else await this.#started().run({ slab, pageCount });
  }

  async read(stretch: number, request: ReadRequest): Promise<ReadReply> {
    return (await this.#started().run({ stretch, ...request }))!;
  }

  async close(): Promise<void> {
    await this.#team?.close();
  }

  #started(): WorkerTeam<CompressRequest, ReadReply | undefined> {
    const workerData = this.#workerData;
    this.#team ??= new WorkerTeam('checkpoint/compress-worker.js', { threads: THREADS, workerData });
    return this.#team;
  }
}
