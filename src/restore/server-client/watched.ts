/** A serving process that a keeper started on its own: its progress is read from its status file. */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError, type ErrorCode } from '../../errors.js';
import { isAlive, type ProcessIdentity } from '../../util/process-identity.js';
import { parse } from '../../util/schema.js';
import { sendSignal, SIGKILL } from '../../vms/processes.js';
import type { ServedTransfer, TransferEnd } from './handle.js';
import { countersSchema } from '../../serving-protocol/counters.js';
import type { TransferRecord } from '../../vms/records.js';
import type { VmFolder } from '../../vms/folder.js';

const LOOK_EVERY_MS = 50;
/** A serving process, or its replacement, writes its first status within this time. */
const FIRST_NOTE_MS = 5_000;

export class WatchedTransfer implements ServedTransfer {
  readonly ended: Promise<TransferEnd>;
  takeoverCount = 0;
  onTakeover: () => void = () => undefined;
  readonly #folder: VmFolder;
  #released = false;

  /** @param former the last status of the process that `keeper` is now replacing */
  constructor(folder: VmFolder, former: TransferRecord, keeper: ProcessIdentity) {
    this.#folder = folder;
    this.ended = this.#watch(former, keeper);
  }

  kill(): void {
    const transfer = this.#folder.readTransfer();
    if (transfer !== undefined) sendSignal(transfer.process, SIGKILL);
  }

  release(): void {
    this.#released = true;
  }

  async #watch(former: TransferRecord, keeper: ProcessIdentity): Promise<TransferEnd> {
    let { pid } = former.process;
    let lastSeenMs = performance.now();
    while (!this.#released && performance.now() - lastSeenMs < FIRST_NOTE_MS) {
      await sleep(LOOK_EVERY_MS);
      const hasKeeper = isAlive(keeper);
      const transfer = this.#folder.readTransfer();
      if (transfer === undefined || transfer.process.pid === former.process.pid) {
        if (!hasKeeper) break;
        continue;
      }
      if (transfer.process.pid !== pid && pid !== former.process.pid) this.#noteTakeover();
      pid = transfer.process.pid;
      const end = endOf(transfer);
      if (end !== undefined) return end;
      if (isAlive(transfer.process)) lastSeenMs = performance.now();
      else if (!hasKeeper) break;
    }
    return { type: 'lost' };
  }

  #noteTakeover(): void {
    this.takeoverCount++;
    this.onTakeover();
  }
}

function endOf({ status, error, counters, completeAtMs }: TransferRecord): TransferEnd | undefined {
  if (status === 'serving') return undefined;
  if (status === 'complete' && completeAtMs !== undefined)
    return {
      type: 'complete',
      counters: parse(countersSchema, counters),
      faultPercentilesUs: null,
      completeAtMs,
    };
  const { code = 'TRANSFER_FAILED', message = 'the memory could not be transferred' } = error ?? {};
  return { type: 'failed', error: new VmckptError(code as ErrorCode, message) };
}
