/**
 * The end of pre-copy for a guest that writes faster than it is saved: after so many passes, or when what is stored
 * could outgrow twice the VM's memory, the VM is paused, so that the next pass is the last one. That pass stores each
 * page once at most, so all of them together stay below twice the memory.
 */
import type { WriterStats } from '../checkpoint/writer.js';
import type { MigrationStatus } from '../qemu/migration-control.js';
import type { QmpClient } from '../qemu/qmp.js';
import { formatMs } from '../util/units.js';

const MAX_PASSES = 30;
/** What the writer holds and has not stored yet, and the indexes. */
const UNDER_WAY_BYTES = 2 ** 23;
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

  constructor(options: PrecopyLimitOptions) {
    this.#options = options;
  }

  /** Whether the VM was paused for the last pass. */
  get reached(): boolean {
    return this.#paused !== undefined;
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
  }

  /** As long as a pass has taken so far: the last one finds as much to send. */
  #expectedMs(): number {
    const { totalMs = 0, ram } = this.#progress ?? {};
    return totalMs / Math.max(1, ram?.dirtySyncCount ?? 1);
  }
}
