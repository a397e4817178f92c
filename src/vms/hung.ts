/**
 * A serving process that hangs without dying. It notes its status four times a second, whatever else it does, so
 * silence tells; then it is ended, and another one takes over as from one that has died.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive } from '../util/process-identity.js';
import { endProcess, SIGKILL } from './processes.js';
import type { VmFolder } from './folder.js';

/** A disk that stalls may hold a demand fault, and the process with it, for many seconds. */
const SILENT_AFTER_MS = 30_000;
/** A machine that was suspended wakes up with old notes: so long it gets to make a new one. */
const SECOND_CHANCE_MS = 2_000;
const MAX_STEP_MS = 1_000;
const KILL_TIMEOUT_MS = 10_000;

/**
 * Of one serving process, to be asked several times a second. Time in which nobody could ask, because the machine
 * was suspended or its processes frozen, does not count.
 */
export class SilenceWatch {
  readonly #folder: VmFolder;
  #notedAtMs: number | undefined;
  #askedAtMs = performance.now();
  #silentMs = 0;

  constructor(folder: VmFolder) {
    this.#folder = folder;
  }

  isSilent(): boolean {
    const nowMs = performance.now();
    const notedAtMs = this.#folder.transferNotedAtMs();
    const isAtWork = this.#folder.readTransfer()?.status === 'serving';
    const sign = !isAtWork || notedAtMs === undefined || notedAtMs !== this.#notedAtMs;
    this.#silentMs = sign ? 0 : this.#silentMs + Math.min(nowMs - this.#askedAtMs, MAX_STEP_MS);
    this.#askedAtMs = nowMs;
    this.#notedAtMs = notedAtMs;
    return this.#silentMs > SILENT_AFTER_MS;
  }
}

/**
 * Ends the serving process of a VM when it has long been silent; says whether it did.
 * @throws VmckptError TIMEOUT when it cannot be killed
 */
export async function endSilentTransfer(folder: VmFolder): Promise<boolean> {
  const transfer = folder.readTransfer();
  const notedAtMs = folder.transferNotedAtMs();
  if (transfer?.status !== 'serving' || notedAtMs === undefined || !isAlive(transfer.process)) return false;
  if (Date.now() - notedAtMs < SILENT_AFTER_MS) return false;
  await sleep(SECOND_CHANCE_MS);
  if (folder.transferNotedAtMs() !== notedAtMs) return false;
  await endProcess(transfer.process, SIGKILL, KILL_TIMEOUT_MS);
  return true;
}
