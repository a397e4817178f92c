/**
 * The end of pre-copy for a guest that writes faster than it is saved: after so many passes, or when what is stored
 * could outgrow twice the VM's memory, the VM is paused. QEMU then ends the pass that it is in, and sends in a last one
 * again what it does not know to be sent; from a VM that stands still these are the same pages, and each is stored
 * once. So all passes together stay below twice the memory.
 */
import type { WriterStats } from '../checkpoint/writer.js';
import type { MigrationStatus } from '../qemu/migration-control.js';
import type { PageTarget } from '../migration-stream/ram-section.js';
import type { QmpClient } from '../qemu/qmp.js';
import { PageBitmap } from '../pages/bitmap.js';
import { formatMs } from '../util/units.js';

const MAX_PASSES = 30;
/** What may lie in the pipe, in QEMU's buffers and in ours, read from memory before the VM stood still. */
const AHEAD_BYTES = 2 ** 22;
/** That, and what the writer holds and has not stored yet. */
const UNDER_WAY_BYTES = 3 * AHEAD_BYTES;
/** Of memory, for the indexes. */
const INDEX_SHARE = 1 / 128;

export interface PrecopyLimitOptions {
  readonly qmp: QmpClient;
  readonly ramBytes: number;
  readonly stats: () => WriterStats | undefined;
  readonly onMessage: (text: string) => void;
}

export class PrecopyLimit {
  readonly #options: PrecopyLimitOptions;
  #paused: Promise<void> | undefined;
  #progress: MigrationStatus | undefined;
  /** QEMU has paused the VM by itself. */
  #over = false;
  #streamBytes = 0;
  /** From there on the stream is that of a VM that stands still. */
  #stillFromBytes = Infinity;
  /** What came since. */
  #still: PageBitmap | undefined;

  constructor(options: PrecopyLimitOptions) {
    this.#options = options;
  }

  /** Whether the VM was paused for the last pass. */
  get reached(): boolean {
    return this.#paused !== undefined;
  }

  /** What comes again from a VM that stands still does not reach `sink`. */
  before(sink: PageTarget, pageCount: number): PageTarget {
    const isNews = (page: number): boolean => {
      if (this.#streamBytes < this.#stillFromBytes) return true;
      this.#still ??= new PageBitmap(pageCount);
      return this.#still.claim(page);
    };
    return {
      fill: (page, byte) => void (isNews(page) && sink.fill(page, byte)),
      data: (page, bytes, start) => void (isNews(page) && sink.data(page, bytes, start)),
    };
  }

  /** To be called for all that was read before more of it is parsed. */
  noteRead(streamBytes: number): void {
    this.#streamBytes = streamBytes;
  }

  /** To be called as the migration goes on. */
  async watch(progress: MigrationStatus): Promise<void> {
    this.#progress = progress;
    this.#over ||= progress.status === 'pre-switchover';
    const passes = progress.ram?.dirtySyncCount ?? 0;
    if (passes > MAX_PASSES) await this.#pause(`after ${MAX_PASSES} passes`);
  }

  /** To be called before more is read: nothing is until the VM stands still, when more could be too much. */
  async ready(): Promise<void> {
    const { ramBytes, stats } = this.#options;
    const { storedBytes = 0 } = stats() ?? {};
    const mayStoreBytes = ramBytes * (1 - INDEX_SHARE) - UNDER_WAY_BYTES;
    if (storedBytes > 0 && storedBytes >= mayStoreBytes)
      await this.#pause('because more of it would not fit into twice its memory');
  }

  async #pause(why: string): Promise<void> {
    if (this.#over) return;
    this.#paused ??= this.#stop(why);
    await this.#paused;
  }

  async #stop(why: string): Promise<void> {
    const { qmp, onMessage } = this.#options;
    onMessage(
      `The VM writes faster than it is saved: it is paused ${why}, for about ${formatMs(this.#expectedMs())}.`,
    );
    await qmp.execute('stop');
    this.#stillFromBytes = this.#streamBytes + AHEAD_BYTES;
  }

  /** As long as a pass has taken so far: the last one finds as much to send. */
  #expectedMs(): number {
    const { totalMs = 0, ram } = this.#progress ?? {};
    return totalMs / Math.max(1, ram?.dirtySyncCount ?? 1);
  }
}
