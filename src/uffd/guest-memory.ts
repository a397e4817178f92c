/** The memory of a VM while it is served: native threads answer its faults and fill the rest. */
import type { VmckptError } from '../errors.js';
import {
  PageTable,
  type CheckpointImage,
  type FaultPathCounters,
  type FaultServer,
} from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { FilledMemory } from '../serving/memory/filled-memory.js';
import type { ObservedFaults, Prediction } from '../working-set/prediction.js';
import type { GuestRegion } from './handshake.js';

export interface GuestMemoryOptions {
  readonly image: CheckpointImage;
  /** Of the image. */
  readonly pageCount: number;
  readonly userfaultfd: number;
  readonly regions: readonly GuestRegion[];
  readonly prediction: Prediction;
  /** Called each time a damaged part of memory is met. Everything else is still served. */
  readonly onDamage: (damage: VmckptError) => void;
}

export class GuestMemory {
  /** Resolves when all data is in place, or no more can be installed; rejects when serving has failed. */
  readonly settled: Promise<'complete' | 'gone'>;
  readonly #table: PageTable;
  readonly #server: FaultServer;
  readonly #prediction: Prediction;
  readonly #beganAtMs: number;
  #filling = false;

  /** Starts to serve faults. */
  constructor({ image, pageCount, userfaultfd, regions, prediction, onDamage }: GuestMemoryOptions) {
    this.#prediction = prediction;
    this.#table = new PageTable(pageCount);
    this.#table.plan(prediction.planned);
    const filled = new FilledMemory({
      image,
      table: this.#table,
      userfaultfd,
      regions: regions.map(({ address, bytes, offset, pageBytes }) => ({
        address,
        firstPage: offset / PAGE_BYTES,
        pageCount: bytes / PAGE_BYTES,
        pageBytes,
      })),
      pagesMayGo: true,
      onDamage,
    });
    this.settled = filled.settled;
    this.#server = filled.server;
    this.#beganAtMs = filled.beganAtMs;
  }

  counters(): FaultPathCounters {
    return this.#table.counters();
  }

  /** The demand faults so far, for the working set. The VM has run since it handed over its memory. */
  observed(): Omit<ObservedFaults, 'isComplete'> {
    const beganAtMs = this.#beganAtMs;
    return { faults: this.#server.trace(), beganAtMs, resumedAtMs: beganAtMs, isExact: false };
  }

  /** Installs everything that is not requested, predicted pages first. A second call does nothing. */
  fill(): void {
    if (this.#filling) return;
    this.#filling = true;
    this.#server.startBackground(this.#prediction.background);
  }

  /** Gives complete memory back to the VM. @throws a system error when that fails, or the VM ends */
  handBack(): void {
    this.#server.handBack();
  }

  /** Ends the threads. Afterwards only counters() may be called. */
  stop(): void {
    this.#server.stop();
  }
}
