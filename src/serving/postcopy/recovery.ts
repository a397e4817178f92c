/** Brings a QEMU that has lost its migration connection to where it takes another one. */
import { VmckptError } from '../../errors.js';
import { queryMigrate } from '../../qemu/migration-control.js';
import type { QmpClient } from '../../qemu/qmp.js';
import { poll } from '../../util/deadline.js';

const PAUSED_TIMEOUT_MS = 30_000;
/** QEMU notices a closed connection at once. */
const GIVING_UP_MS = 2_000;

/** @returns false when it has all its memory already. @throws VmckptError TRANSFER_FAILED, TIMEOUT */
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
      // Our predecessor died between its migrate-recover and its connection: QEMU listens for us. Version 10 says
      // so; 7.2 says the same for a moment when the connection was made and is being given up.
      const status = watch.latest();
      refusal = `${error.message}, and that its migration is ${status ?? 'in a state that it does not tell'}`;
      if (status === 'postcopy-recover-setup') return true;
      if (!error.message.includes('triggered already')) triggeredAtMs = undefined;
      else if (performance.now() - (triggeredAtMs ??= performance.now()) > GIVING_UP_MS) return true;
      // Refused until QEMU has noticed that its connection is gone, and for ever when it needs none any more.
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
    throw new VmckptError('TRANSFER_FAILED', `QEMU takes no other transfer: it says ${refusal}`, { cause });
  }
}

/**
 * The migration's status as QEMU told it last. One question at a time: while its main loop waits for a page it does
 * not answer, and a few unanswered commands would stop it from reading out-of-band ones.
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
      this.#status = undefined; // not answered in time
    } finally {
      this.#asking = false;
    }
  }
}
