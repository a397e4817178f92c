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
import type { GuestRegion } from './handshake.js';

const DEMAND_THREADS = 2;
const MAX_BACKGROUND_THREADS = 4;

export interface GuestMemoryOptions {
  readonly image: CheckpointImage;
  /** Of the image. */
  readonly pageCount: number;
  readonly userfaultfd: number;
  readonly regions: readonly GuestRegion[];
  /** A part of memory cannot be had; all else is still served. Every time that this is noticed. */
  readonly onDamage: (damage: VmckptError) => void;
}

export class GuestMemory {
  /** Resolves when all data is in place, or nothing can be put there any more; rejects when serving has failed. */
  readonly settled: Promise<'complete' | 'gone'>;
  readonly #table: PageTable;
  readonly #server: FaultServer;
  #filling = false;

  /** Faults are served from here on. */
  constructor({ image, pageCount, userfaultfd, regions, onDamage }: GuestMemoryOptions) {
    this.#table = new PageTable(pageCount);
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
  }

  counters(): FaultPathCounters {
    return this.#table.counters();
  }

  /** Puts everything in place that nobody has asked for. Once more does nothing. */
  fill(): void {
    if (this.#filling) return;
    this.#filling = true;
    this.#server.startBackground();
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
    hint: '`vmckpt check` lists all damage; serve another generation',
  });
}

function servingFailed(text: string): VmckptError {
  return new VmckptError('TRANSFER_FAILED', `memory could not be put in place: ${text}`, {
    hint: 'the VM waits for ever for what it lacks: end it',
  });
}

function withResolvers<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((...both) => ([resolve, reject] = both));
  return { promise, resolve, reject };
}
