/** The memory of a VM while it is served: native threads answer its faults, and fill the rest behind them. */
import { availableParallelism } from 'node:os';
import { VmckptError } from '../errors.js';
import {
  FaultServer,
  PageTable,
  type CheckpointImage,
  type FaultPathCounters,
  type ServerEventKind,
} from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { nowMs } from '../timeline/clock.js';
import type { ObservedFaults, Prediction } from '../working-set/prediction.js';
import type { GuestRegion } from './handshake.js';

const DEMAND_THREADS = 2;
const MAX_BACKGROUND_THREADS = 4;

export interface GuestMemoryOptions {
  readonly image: CheckpointImage;
  /** Of the image. */
  readonly pageCount: number;
  readonly userfaultfd: number;
  readonly regions: readonly GuestRegion[];
  readonly prediction: Prediction;
  /** A part of memory cannot be had; all else is still served. Every time that this is noticed. */
  readonly onDamage: (damage: VmckptError) => void;
}

export class GuestMemory {
  /** Resolves when all data is in place, or nothing can be put there any more; rejects when serving has failed. */
  readonly settled: Promise<'complete' | 'gone'>;
  readonly #table: PageTable;
  readonly #server: FaultServer;
  readonly #prediction: Prediction;
  readonly #beganAtMs: number;
  #filling = false;

  /** Faults are served from here on. */
  constructor({ image, pageCount, userfaultfd, regions, prediction, onDamage }: GuestMemoryOptions) {
    this.#prediction = prediction;
    this.#table = new PageTable(pageCount);
    this.#table.plan(prediction.planned);
    const { promise, resolve, reject } = withResolvers<'complete' | 'gone'>();
    this.settled = promise;
    promise.catch(() => undefined); // whoever serves the memory awaits it
    this.#server = new FaultServer({
      image,
      table: this.#table,
      userfaultfd,
      regions: regions.map(({ address, bytes, offset, pageBytes }) => ({
        address,
        firstPage: offset / PAGE_BYTES,
        pageCount: bytes / PAGE_BYTES,
        pageBytes,
      })),
      demandThreads: DEMAND_THREADS,
      backgroundThreads: Math.min(availableParallelism(), MAX_BACKGROUND_THREADS),
      pagesMayGo: true,
      onEvent: (kind, text) => {
        if (kind === 'complete' || kind === 'gone') resolve(kind);
        else if (kind === 'failed') reject(servingFailed(text));
        else onDamage(damageOf(kind, text));
      },
    });
    this.#beganAtMs = nowMs();
  }

  counters(): FaultPathCounters {
    return this.#table.counters();
  }

  /** What was asked for so far, for the working set. The VM runs since it has handed over its memory. */
  observed(): Omit<ObservedFaults, 'isComplete'> {
    const beganAtMs = this.#beganAtMs;
    return { faults: this.#server.trace(), beganAtMs, resumedAtMs: beganAtMs, isExact: false };
  }

  /** Puts everything in place that nobody has asked for, what is predicted first. Once more does nothing. */
  fill(): void {
    if (this.#filling) return;
    this.#filling = true;
    this.#server.startBackground(this.#prediction.background);
  }

  /** Gives the memory, which is complete, back to the VM. @throws a system error when that cannot be, or it ends */
  handBack(): void {
    this.#server.handBack();
  }

  /** Ends the threads. Nothing else but counters() may be called afterwards. */
  stop(): void {
    this.#server.stop();
  }
}

function damageOf(kind: Exclude<ServerEventKind, 'complete' | 'gone' | 'failed'>, text: string): VmckptError {
  return new VmckptError(kind === 'extent-damaged' ? 'EXTENT_DAMAGED' : 'INDEX_DAMAGED', text, {
    hint: 'vmckpt check lists all damage. Serve another generation.',
  });
}

function servingFailed(text: string): VmckptError {
  return new VmckptError('TRANSFER_FAILED', `memory could not be put in place: ${text}`, {
    hint: 'The VM hangs at the first page that it lacks: end it.',
  });
}

function withResolvers<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((...both) => ([resolve, reject] = both));
  return { promise, resolve, reject };
}
