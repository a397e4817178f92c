/** Who compresses and writes pages: threads, or this one as long as there is too little for threads, whose start takes longer. */
import { BatchStorer } from './batch-storer.js';
import type { CompressRequest, CompressWorkerData } from './compress-worker.js';
import type { ReadReply, ReadRequest } from './stretch.js';
import { WorkerTeam } from './worker-team.js';

const THREADS = 2;
/** 32 MiB at the levels that take no longer than reading from a disk. */
const MAX_PAGES_WITHOUT_THREADS = { fast: 8192, slow: 1024 } as const;
const MAX_FAST_LEVEL = 3;

export class StoringThreads {
  readonly #workerData: CompressWorkerData;
  readonly #maxPagesWithoutThreads: number;
  #team: WorkerTeam<CompressRequest, ReadReply | undefined> | undefined;
  #storer: BatchStorer | undefined;
  #pageCount = 0;

  /** @param atOnce whether there will be more than a few pages */
  constructor(workerData: CompressWorkerData, { atOnce }: { readonly atOnce: boolean }) {
    this.#workerData = workerData;
    const { level } = workerData;
    const isFast = level === 'none' || level <= MAX_FAST_LEVEL;
    this.#maxPagesWithoutThreads = MAX_PAGES_WITHOUT_THREADS[isFast ? 'fast' : 'slow'];
    if (atOnce) this.#started();
  }

  async store(slab: number, pageCount: number): Promise<void> {
    if (this.#isLittle(pageCount)) this.#storing().store(this.#workerData.slabs[slab]!, pageCount);
    else await this.#started().run({ slab, pageCount });
  }

  async read(stretch: number, request: ReadRequest): Promise<ReadReply> {
    if (this.#isLittle(countPages(request.runs)))
      return this.#storing().read(this.#workerData.stretches[stretch]!, request);
    return (await this.#started().run({ stretch, ...request }))!;
  }

  async close(): Promise<void> {
    await this.#team?.close();
  }

  /** Whether so many more pages are still too few for threads. */
  #isLittle(pageCount: number): boolean {
    this.#pageCount += pageCount;
    return this.#team === undefined && this.#pageCount <= this.#maxPagesWithoutThreads;
  }

  #storing(): BatchStorer {
    return (this.#storer ??= new BatchStorer(this.#workerData));
  }

  #started(): WorkerTeam<CompressRequest, ReadReply | undefined> {
    const workerData = this.#workerData;
    this.#team ??= new WorkerTeam('checkpoint/compress-worker.js', { threads: THREADS, workerData });
    return this.#team;
  }
}

/** @param runs (address, pageCount)… */
function countPages(runs: BigUint64Array): number {
  let count = 0;
  for (let at = 1; at < runs.length; at += 2) count += Number(runs[at]!);
  return count;
}
