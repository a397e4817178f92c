/**
 * The files that the VM writes to, as of the instant that is saved: a restore finds out by them whether its disks were written
 * to since. A file's time advances in ticks of the kernel, so no write may come in the tick in which it is looked at.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import type { VmDescription } from '../qemu/inspect.js';
import type { QmpClient } from '../qemu/qmp.js';
import { lookAtDiskFile, type DiskFile } from '../util/disk-files.js';

/** The kernel's longest (CONFIG_HZ=100). */
const TICK_MS = 10;
const NS_IN_MS = 1e6;

export class DiskWatch {
  readonly #paths: readonly string[];
  readonly #root: string;
  #files: readonly DiskFile[] = [];

  constructor({ pid, writtenImages, context }: Pick<VmDescription, 'pid' | 'writtenImages' | 'context'>) {
    this.#paths = writtenImages;
    this.#root = context.elsewhere.length === 0 ? '' : `/proc/${pid}/root`;
  }

  /** As of the last note. */
  get files(): readonly DiskFile[] {
    return this.#files;
  }

  /** As they are now. */
  look(): readonly DiskFile[] {
    return this.#paths.flatMap((path) => lookAtDiskFile(path, this.#root) ?? []);
  }

  /** A write after this shows: to be called where the VM stands still, or before it does. */
  async note(): Promise<void> {
    this.#files = this.look();
    if (this.#files.some(({ mtimeNs }) => Date.now() - Number(mtimeNs) / NS_IN_MS < 2 * TICK_MS))
      await sleep(TICK_MS);
  }

  /**
   * For a save in whose instant QEMU lets nobody look. `run` tells when the VM goes on (`onResume`). QEMU flushes at the
   * instant, so a file may change of which the guest has written nothing since the note: what QEMU has counted tells.
   */
  async around<T>(qmp: QmpClient, run: (onResume: () => void) => Promise<T>): Promise<T> {
    if (this.#paths.length === 0) return run(() => undefined);
    const writes = await countWrites(qmp);
    await this.note();
    let resumed: readonly DiskFile[] | undefined;
    const result = await run(() => (resumed ??= this.look()));
    if (resumed !== undefined && (await countWrites(qmp)) === writes) this.#files = resumed;
    return result;
  }
}

const BlockStats = v.array(
  v.object({
    stats: v.object({ wr_operations: v.number(), unmap_operations: v.optional(v.number(), 0) }),
  }),
);

async function countWrites(qmp: QmpClient): Promise<number> {
  const devices = await qmp.query(BlockStats, 'query-blockstats');
  return devices.reduce((sum, { stats }) => sum + stats.wr_operations + stats.unmap_operations, 0);
}
