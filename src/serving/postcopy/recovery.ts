/** Brings a QEMU that has lost its migration connection to the state in which it accepts another one. */
import { VmckptError } from '../../errors.js';
import { queryMigrate } from '../../qemu/migration-control.js';
import type { QmpClient } from '../../qemu/qmp.js';
import { poll } from '../../util/deadline.js';

const PAUSED_TIMEOUT_MS = 30_000;
/** QEMU notices a closed connection at once. */
const GIVING_UP_MS = 2_000;

/** @returns false when QEMU already has all of its memory. @throws VmckptError TRANSFER_FAILED, TIMEOUT */
export async function prepareRecovery(monitor: QmpClient, migrationSocket: string): Promise<boolean> {
  const uri = `unix:${migrationSocket}`;
  const watch = new StatusWatch(monitor);
  let triggeredAtMs: number | undefined;
  let refusal: string | undefined;
  const attempt = async () => {
    try {
      await monitor.execute('migrate-recover', { uri }, { oob: true });
      return true;
    } catch (error) {
      if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') throw error;
      // The predecessor died between its migrate-recover and its connection, and QEMU listens. Version 10 reports
      // that; 7.2 reports the same for a moment after a connection was made and lost.
      const status = watch.latest();
      refusal = `${error.message}; the state of its migration: ${status ?? 'unknown'}`;
      if (status === 'postcopy-recover-setup') return true;
      if (!error.message.includes('triggered already')) triggeredAtMs = undefined;
      else if (performance.now() - (triggeredAtMs ??= performance.now()) > GIVING_UP_MS) return true;
      // Refused until QEMU has noticed the lost connection; refused for good when it has all of its memory.
      return status === 'completed' ? false : undefined;
    }
  };
  try {
    return await poll(attempt, {
      what: 'QEMU to notice the lost transfer',
      timeoutMs: PAUSED_TIMEOUT_MS,
      everyMs: 5,
    });
  } catch (cause) {
    if (refusal === undefined) throw cause;
    throw new VmckptError('TRANSFER_FAILED', `QEMU rejected the new transfer: ${refusal}`, { cause });
  }
}

/**
 * The last known status of the migration. Only one query is under way at a time: QEMU does not answer while its main
 * loop waits for a page, and after a few unanswered commands it stops reading out-of-band ones.
 */
class StatusWatch {
  #asking = false;
  #status: string | undefined;

  constructor(private readonly monitor: QmpClient) {}

  latest(): string | undefined {
    if (!this.#asking) void this.#ask();
    return this.#status;
  }

  async #ask(): Promise<void> {
    this.#asking = true;
    try {
      this.#status = (await queryMigrate(this.monitor)).status;
    } catch {
      this.#status = undefined; // no answer in time
    } finally {
      this.#asking = false;
    }
  }
}
