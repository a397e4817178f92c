/**
 * Finds serving processes that hang without dying. A serving process records its status four times a second, whatever
 * else it does. One that has been silent for long is killed, and another takes over.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive } from '../util/process-identity.js';
import { endProcess, SIGKILL } from './processes.js';
import type { VmFolder } from './folder.js';

/** A stalled disk may block a demand fault, and the process with it, for many seconds. */
const SILENT_AFTER_MS = 30_000;
/** After a suspend the machine wakes up with old statuses: a process gets this long to write a new one. */
const SECOND_CHANCE_MS = 2_000;
const MAX_STEP_MS = 1_000;
const KILL_TIMEOUT_MS = 10_000;

/**
 * Watches one serving process; to be asked several times a second. Time in which it was not asked, because the machine
 * was suspended or the caller frozen, does not count.
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
 * Kills the serving process of a VM if it has been silent for long. Returns whether it did.
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
