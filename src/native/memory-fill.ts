/** Writes a checkpoint's pages straight into a process that does not run yet (native/core/memory_fill.h). */
import { integer, loadAddon, MAX_THREADS } from './addon.js';
import { regionNumbers, type CheckpointImage, type MemoryRegion, type PageTable } from './fault-path.js';

export interface MemoryFillOptions {
  readonly image: CheckpointImage;
  readonly pid: number;
  /** Fresh memory: pages that read as zero are left out. It must not wait for its pages (userfaultfd). */
  readonly regions: readonly MemoryRegion[];
  /** Only these pages, (firstPage, pageCount)…, those wanted first in front; otherwise all of the regions. */
  readonly order?: Uint32Array | undefined;
  /** Where every page in place is noted, as prefetched, so that a fault server leaves it alone. */
  readonly table?: PageTable | undefined;
  readonly threads: number;
  /** Nothing is begun when it is over; no limit without it. */
  readonly budgetMs?: number | undefined;
}

interface NativeFill {
  readonly pageCount: number;
  readonly waitsForSource: boolean;
  run(): Promise<boolean>;
  stop(): void;
}

interface MemoryFillAddon {
  readonly MemoryFill: new (options: {
    readonly image: object;
    readonly pid: number;
    readonly regions: BigUint64Array;
    readonly order: Uint32Array | undefined;
    readonly table: object | undefined;
    readonly threads: number;
    /** 0 for no limit. */
    readonly budgetMs: number;
  }) => NativeFill;
}

export class MemoryFill {
  readonly #native: NativeFill;

  constructor({ image, pid, regions, order, table, threads, budgetMs }: MemoryFillOptions) {
    requireWithin(order, image.pageCount);
    this.#native = new (loadAddon<MemoryFillAddon>().MemoryFill)({
      image: image.native,
      pid: integer('pid', pid, { min: 1 }),
      regions: regionNumbers(regions),
      order,
      table: table?.native,
      threads: integer('threads', threads, { min: 1, max: MAX_THREADS }),
      budgetMs: budgetMs === undefined ? 0 : integer('budgetMs', budgetMs, { min: 1 }),
    });
  }

  /** Pages in place so far, zero ones not counted. */
  get pageCount(): number {
    return this.#native.pageCount;
  }

  /** Whether it needs an extent that the source does not have yet. */
  get waitsForSource(): boolean {
    return this.#native.waitsForSource;
  }

  /**
   * Writes, once only; false when the budget or `stop()` has cut it short. Rejects with EXTENT_DAMAGED or INDEX_DAMAGED,
   * and with a system error: EPERM without the right to ptrace the process, ESRCH when it has ended, EFAULT where it
   * has no writable memory.
   */
  async run(): Promise<boolean> {
    const stop = (): void => this.stop();
    // An exiting process waits for its worker threads.
    process.once('exit', stop);
    try {
      return await this.#native.run();
    } finally {
      process.off('exit', stop);
    }
  }

  stop(): void {
    this.#native.stop();
  }
}

function requireWithin(order: Uint32Array | undefined, pageCount: number): void {
  for (let at = 0; order !== undefined && at < order.length; at += 2)
    integer('the end of a run', order[at]! + order[at + 1]!, { max: pageCount });
}
