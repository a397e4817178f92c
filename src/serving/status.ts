/** What a serving process leaves on record while it serves: for `ps`, for its supervisors, and for its successor. */
import type { VmckptError } from '../errors.js';
import type { HeldMonitor } from '../qemu/held-monitor.js';
import { identifyProcess } from '../util/process-identity.js';
import { log } from './log.js';
import type { TransferCounters } from '../serving-protocol/counters.js';
import type { VmFolder } from '../vms/folder.js';

const WRITE_EVERY_MS = 250;

export class TransferStatus {
  /** A connection to QEMU that the next process will need. */
  held: HeldMonitor | undefined;
  /** Whether QEMU has the machine: it outlives the loss of its transfer then; before, it gives up. */
  loaded: boolean;
  /** Whether what comes after the load has begun (aftercare.ts). */
  caredFor: boolean;
  completeAtMs: number | undefined;
  readonly #counters: () => Partial<TransferCounters>;
  readonly #folder: VmFolder;
  #writeFailed = false;

  /** What a process before this one has noted, whoever comes after this one may need as well. */
  constructor(folder: VmFolder, counters: () => Partial<TransferCounters>) {
    const former = folder.readTransfer();
    this.held = former?.held;
    this.loaded = former?.loaded ?? false;
    this.caredFor = former?.caredFor ?? false;
    this.#counters = counters;
    this.#folder = folder;
  }

  /** Writes it again and again for as long as `work` takes. */
  async during(work: Promise<void>): Promise<void> {
    const timer = setInterval(() => this.write('serving'), WRITE_EVERY_MS);
    this.write('serving');
    try {
      await work;
    } finally {
      clearInterval(timer);
    }
  }

  /** What cannot be noted costs `ps` its view, never the VM its memory. */
  write(status: 'serving' | 'complete' | 'failed' | 'damaged', error?: VmckptError): void {
    const self = identifyProcess(process.pid);
    if (self === undefined) return;
    try {
      this.#folder.writeTransfer({
        process: self,
        status,
        loaded: this.loaded,
        caredFor: this.caredFor,
        ...(this.held && { held: this.held }),
        ...(error && { error: { code: error.code, message: error.message } }),
        ...(this.completeAtMs !== undefined && { completeAtMs: this.completeAtMs }),
        counters: { ...this.#counters() },
      });
    } catch (cause) {
      if (!this.#writeFailed) void log('error', { err: cause }, 'the state of this transfer cannot be noted');
      this.#writeFailed = true;
      this.#folder.touchTransfer();
    }
  }
}
