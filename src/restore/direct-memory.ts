/**
 * The direct path: QEMU's main memory is filled through a duplicate of QEMU's own userfaultfd, by native threads that
 * read the faults and QEMU's return path themselves. The migration stream carries none of its pages. docs/direct.md
 * says how and why.
 */
import { closeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { VmckptError } from '../errors.js';
import {
  FaultServer,
  missingPageRegions,
  ReturnPath,
  takeUserfaultfds,
  type CheckpointImage,
  type FaultPathCounters,
  type PageTable,
  type ServerEventKind,
} from '../native/index.js';
import { PAGE_BYTES, type PlacedRamBlock, type RamLayout } from '../pages/layout.js';

const DEMAND_THREADS = 2;
const MAX_BACKGROUND_THREADS = 4;

export interface DirectMemoryOptions {
  readonly image: CheckpointImage;
  readonly table: PageTable;
  readonly layout: RamLayout;
  /** The block that is filled directly. */
  readonly block: PlacedRamBlock;
  /** QEMU's. */
  readonly pid: number;
  /** Where the block begins in QEMU's address space. */
  readonly hostAddress: number;
}

export class DirectMemory {
  /** Resolves when all data is in place; rejects when that cannot be. */
  readonly complete: Promise<void>;
  readonly #options: DirectMemoryOptions;
  #settle!: { resolve: () => void; reject: (error: Error) => void };
  #reader: ReturnPath | undefined;
  #server: FaultServer | undefined;

  constructor(options: DirectMemoryOptions) {
    this.#options = options;
    this.complete = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.complete.catch(() => undefined); // whoever serves the memory awaits it
  }

  owns(block: PlacedRamBlock): boolean {
    return block === this.#options.block;
  }

  counters(): FaultPathCounters {
    return this.#options.table.counters();
  }

  /** Reads the migration connection from here on. Requests for our memory wait until `attach()`. */
  listen(socketFd: number, onBytes: (bytes: Buffer) => void, onClosed: () => void): void {
    const { table, layout } = this.#options;
    const blocks = layout.blocks.map((block) => ({ ...block, isDirect: this.owns(block) }));
    this.#reader = new ReturnPath({ socketFd, table, blocks, onMessages: onBytes, onClosed });
  }

  /**
   * Takes QEMU's userfaultfd, which it has once it has executed LISTEN, and serves faults from here on.
   * @throws a system error EPERM or EACCES without the right to ptrace QEMU; VmckptError TRANSFER_FAILED when the
   *   memory is not where it was
   */
  attach(): void {
    const { image, table, block, hostAddress } = this.#options;
    const userfaultfd = this.#takeUserfaultfd();
    try {
      this.#server = new FaultServer({
        image,
        table,
        userfaultfd,
        regions: [{ address: hostAddress, firstPage: block.firstPage, pageCount: block.pageCount }],
        demandThreads: DEMAND_THREADS,
        backgroundThreads: Math.min(availableParallelism(), MAX_BACKGROUND_THREADS),
        onEvent: (kind, text) => this.#onEvent(kind, text),
      });
    } finally {
      closeSync(userfaultfd);
    }
    this.#reader!.attach(this.#server);
  }

  /** Everything goes through the stream after all; requests that have waited are handed on. */
  forgo(): void {
    this.#reader!.attach(undefined);
  }

  /** Lets every fault be heard again that a process before this one may have read. */
  wakeAll(): void {
    this.#server!.wakeAll(missingPageRegions(this.#options.pid));
  }

  /** Puts everything in place that nobody has asked for. */
  startBackground(): void {
    this.#server!.startBackground(new Uint32Array(0));
  }

  /** Ends the threads. */
  stop(): void {
    this.#reader?.stop();
    this.#server?.stop();
    this.#reader = undefined;
    this.#server = undefined;
  }

  #takeUserfaultfd(): number {
    const { pid, block, hostAddress } = this.#options;
    const endAddress = hostAddress + block.pageCount * PAGE_BYTES;
    const [userfaultfd, ...others] = takeUserfaultfds(pid);
    for (const fd of others) closeSync(fd);
    const known = userfaultfd !== undefined && others.length === 0;
    if (known && covers(missingPageRegions(pid), hostAddress, endAddress)) return userfaultfd;
    if (userfaultfd !== undefined) closeSync(userfaultfd);
    const found = known
      ? 'waits for its pages elsewhere'
      : `has ${others.length + (known ? 1 : 0)} userfaultfds`;
    throw new VmckptError('TRANSFER_FAILED', `QEMU ${found}: its memory cannot be filled directly`, {
      hint: 'Restore with --path stream.',
    });
  }

  #onEvent(kind: ServerEventKind, text: string): void {
    if (kind === 'complete') this.#settle.resolve();
    else this.#settle.reject(failureOf(kind, text));
  }
}

function failureOf(kind: Exclude<ServerEventKind, 'complete'>, text: string): VmckptError {
  if (kind === 'gone')
    return new VmckptError('TRANSFER_FAILED', 'QEMU has gone before all memory was in place');
  if (kind === 'failed')
    return new VmckptError('TRANSFER_FAILED', `memory could not be put in place: ${text}`);
  return new VmckptError(kind === 'extent-damaged' ? 'EXTENT_DAMAGED' : 'INDEX_DAMAGED', text, {
    hint: '`vmckpt check` lists all damage; restore another generation',
  });
}

function covers(regions: readonly { start: number; end: number }[], start: number, end: number): boolean {
  let covered = start;
  for (const region of regions) if (region.start <= covered && covered < region.end) covered = region.end;
  return covered >= end;
}
