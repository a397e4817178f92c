/** The status that a serving process records while it works: for `ps`, its supervisors, and its successor. */
import type { VmckptError } from '../errors.js';
import type { HeldMonitor } from '../qemu/held-monitor.js';
import { identifyProcess } from '../util/process-identity.js';
import { log } from './log.js';
import type { TransferCounters } from '../serving-protocol/counters.js';
import type { VmFolder } from '../vms/folder.js';

const WRITE_EVERY_MS = 250;

/** The progress that is recorded. */
export interface TransferNotes {
  readonly counters: () => Partial<TransferCounters>;
  /** Whether the VM waits for a source that does not have what it asks for. */
  readonly waitsForSource: () => boolean;
}

export class TransferStatus {
  /** A connection to QEMU that a successor will need. */
  held: HeldMonitor | undefined;
  /** Whether QEMU has the machine. From then on QEMU survives the loss of its transfer; before, it gives up. */
  loaded: boolean;
  /** Whether the aftercare has begun (aftercare.ts). */
  caredFor: boolean;
  completeAtMs: number | undefined;
  readonly #noted: TransferNotes;
  readonly #folder: VmFolder;
  #writeFailed = false;

  /** Keeps what a predecessor recorded, for successors of this process. */
  constructor(folder: VmFolder, noted: TransferNotes) {
    const former = folder.readTransfer();
    this.held = former?.held;
    this.loaded = former?.loaded ?? false;
    this.caredFor = former?.caredFor ?? false;
    this.#noted = noted;
    this.#folder = folder;
  }

  /** Writes the status repeatedly while `work` takes. */
  async during(work: Promise<void>): Promise<void> {
    const timer = setInterval(() => this.write('serving'), WRITE_EVERY_MS);
    this.write('serving');
    try {
      await work;
    } finally {
      clearInterval(timer);
    }
  }

  /** A failed write costs `ps` its view, never the VM its memory. */
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
        ...(this.#noted.waitsForSource() && { waitsForSource: true }),
        counters: { ...this.#noted.counters() },
      });
    } catch (cause) {
      if (!this.#writeFailed) void log('error', { err: cause }, 'the state of this transfer cannot be noted');
      this.#writeFailed = true;
      this.#folder.touchTransfer();
    }
  }
}
