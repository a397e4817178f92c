/**
 * A transfer process that hangs without dying. It notes its status four times a second, whatever else it does, so
 * silence tells; then it is ended, and another one takes over as from one that has died.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive } from '../util/process-identity.js';
import { endProcess, SIGKILL } from './end-process.js';
import type { VmFolder } from './vm-record.js';

/** A disk that stalls may hold a demand fault, and the process with it, for many seconds. */
export const SILENT_AFTER_MS = 30_000;
/** A machine that was suspended wakes up with old notes: so long it gets to make a new one. */
const SECOND_CHANCE_MS = 2_000;
const KILL_TIMEOUT_MS = 10_000;

/** To be asked often; by the monotonic clock, which stands still while the machine is suspended. */
export class SilenceWatch {
  readonly #folder: VmFolder;
  #notedAtMs: number | undefined;
  #seenAtMs = performance.now();

  constructor(folder: VmFolder) {
    this.#folder = folder;
  }

  isSilent(): boolean {
    const notedAtMs = this.#folder.transferNotedAtMs();
    if (notedAtMs !== this.#notedAtMs) this.#seenAtMs = performance.now();
    this.#notedAtMs = notedAtMs;
    return performance.now() - this.#seenAtMs > SILENT_AFTER_MS;
  }
}

/** Ends the transfer process of a VM when it has long been silent. @throws VmckptError TIMEOUT when it cannot be killed */
export async function endSilentTransfer(folder: VmFolder): Promise<void> {
  const transfer = folder.readTransfer();
  const notedAtMs = folder.transferNotedAtMs();
  if (transfer?.status !== 'serving' || notedAtMs === undefined || !isAlive(transfer.process)) return;
  if (Date.now() - notedAtMs < SILENT_AFTER_MS) return;
  await sleep(SECOND_CHANCE_MS);
  if (folder.transferNotedAtMs() === notedAtMs) await endProcess(transfer.process, SIGKILL, KILL_TIMEOUT_MS);
}
