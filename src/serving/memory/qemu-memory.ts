/**
 * The direct path: QEMU's memory is filled through a duplicate of QEMU's own userfaultfd, by native threads that
 * read the faults and QEMU's return path themselves. The migration stream carries none of its pages. docs/direct.md
 * says how and why.
 */
import { closeSync } from 'node:fs';
import { VmckptError } from '../../errors.js';
import {
  MemoryFill,
  missingPageRegions,
  PageTable,
  presentPages,
  type PagePresence,
  ReturnPath,
  takeUserfaultfds,
  waitsAt,
  type CheckpointImage,
  type FaultPathCounters,
  type FaultServer,
  type MemoryRegion,
} from '../../native/index.js';
import { damageIn } from '../../checkpoint/native-image.js';
import type { HostPages } from '../../pages/host-pages.js';
import { PAGE_BYTES, type PlacedRamBlock, type RamLayout } from '../../pages/layout.js';
import { bequeath } from './estate.js';
import { backgroundThreadCount, FilledMemory } from './filled-memory.js';
import type { Prediction } from '../../working-set/prediction.js';

/** How far the migration stream has come, for a successor; 0 at first. */
const STREAM_PHASES = { idle: 1, ending: 2 } as const;

export interface BlockInQemu {
  readonly block: PlacedRamBlock;
  /** Where it begins in QEMU's address space. */
  readonly hostAddress: number;
}

export interface QemuMemoryOptions {
  readonly image: CheckpointImage;
  readonly layout: RamLayout;
  readonly qemuPid: number;
  /** Filled directly. */
  readonly blocks: readonly BlockInQemu[];
  /** Sizes of the pages of QEMU's memory. */
  readonly hostPages: HostPages;
  /** Descriptors that a predecessor has left behind. */
  readonly pageTable: number | undefined;
  readonly userfaultfd: number | undefined;
  /** Nothing is put in place that nobody asks for. */
  readonly demandOnly: boolean;
  /** What is asked for comes without its neighbours. */
  readonly exactly: boolean;
  /** Undefined for a successor. */
  readonly prediction: Prediction | undefined;
}

export class QemuMemory {
  /** Resolves when all data is in place; rejects when that cannot be. */
  readonly complete: Promise<void>;
  readonly #options: QemuMemoryOptions;
  readonly #table: PageTable;
  #userfaultfd: number | undefined;
  #settle!: { resolve: () => void; reject: (error: Error) => void };
  #reader: ReturnPath | undefined;
  #server: FaultServer | undefined;
  #faults: Uint32Array = new Uint32Array(0);
  /** When the server began: wall clock, ms. */
  #beganAtMs = 0;

  constructor(options: QemuMemoryOptions) {
    this.#options = options;
    this.#table = new PageTable(options.layout.pageCount, options.pageTable);
    this.#table.forgetClaims();
    this.#userfaultfd = options.userfaultfd;
    this.complete = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.complete.catch(() => undefined); // awaited by what serves the memory
  }

  /**
   * Puts in place what will be touched first. For the time when QEMU has emptied its memory and does not wait for its
   * pages yet, between DISCARD and LISTEN.
   * Where it may not be written to, nothing is.
   * @throws VmckptError EXTENT_DAMAGED, INDEX_DAMAGED
   */
  async prefetch(): Promise<void> {
    const { image, qemuPid: pid, prediction } = this.#options;
    if (prediction === undefined) return;
    const { beforeResume: order } = prediction;
    const budgetMs = Math.ceil(prediction.budgetMs);
    if (order.length > 0) {
      const threads = backgroundThreadCount();
      const fill = { image, pid, regions: this.#regions, order, table: this.#table, threads, budgetMs };
      await new MemoryFill(fill).run().catch((error: unknown) => {
        const damage = damageIn(error);
        if (damage !== undefined) throw damage;
      });
    }
    this.#table.plan(prediction.planned);
  }

  owns(block: PlacedRamBlock): boolean {
    return this.#options.blocks.some((owned) => owned.block === block);
  }

  counters(): FaultPathCounters {
    return this.#table.counters();
  }

  faultPercentilesUs(): number[] {
    return this.#table.faultPercentilesUs();
  }

  /** Whether the stream can be gone on with where it is: nothing is under way on it. */
  get isStreamIdle(): boolean {
    return this.#table.streamPhase === STREAM_PHASES.idle;
  }

  /** Everything that must not go with this process is left with its keeper. The stream is idle from here on. */
  bequeath(migrationSocket: number): void {
    this.#table.streamPhase = STREAM_PHASES.idle;
    bequeath([
      ['pageTable', this.#table.fd],
      ['userfaultfd', this.#userfaultfd!],
      ['migrationSocket', migrationSocket],
    ]);
  }

  /** The end of the stream is about to be written: half of it would be of no use to anybody. */
  noteEnd(): void {
    this.#table.streamPhase = STREAM_PHASES.ending;
  }

  /** Reads the migration connection from here on. Requests for our memory wait until `attach()`. */
  listen(socketFd: number, onBytes: (bytes: Buffer) => void, onClosed: () => void): void {
    const { layout } = this.#options;
    const blocks = layout.blocks.map((block) => ({ ...block, isDirect: this.owns(block) }));
    this.#reader = new ReturnPath({ socketFd, table: this.#table, blocks, onMessages: onBytes, onClosed });
  }

  /**
   * Takes QEMU's userfaultfd, which it has once it has executed LISTEN, and serves faults from here on.
   * @throws a system error EPERM or EACCES without the right to ptrace QEMU; VmckptError TRANSFER_FAILED when the
   *   memory is not where it was
   */
  attach(): void {
    const { image } = this.#options;
    this.#userfaultfd ??= this.#takeUserfaultfd();
    const { server, settled, beganAtMs } = new FilledMemory({
      image,
      table: this.#table,
      userfaultfd: this.#userfaultfd,
      regions: this.#regions,
      exactly: this.#options.exactly,
      onDamage: (damage) => this.#settle.reject(damage),
    });
    this.#server = server;
    this.#beganAtMs = beganAtMs;
    settled.then((how) => {
      if (how === 'complete') this.#settle.resolve();
      else this.#settle.reject(qemuGone());
    }, this.#settle.reject);
    this.#reader!.attach(this.#server);
  }

  /** What was asked for until `stop()`, for the working set. */
  observed(): { readonly faults: Uint32Array; readonly beganAtMs: number } {
    return { faults: this.#faults, beganAtMs: this.#beganAtMs };
  }

  /** As `attach`, in the place of a process that died: what is in place is known, and every fault is heard again. */
  reattach(): void {
    const { qemuPid, pageTable } = this.#options;
    // Of a huge page that is there already the kernel says the same as when it has none to give.
    if (pageTable === undefined || this.#hasHugePages)
      for (const part of this.inPlace()) this.#table.markInstalled(part);
    this.attach();
    this.#server!.wakeAll(missingPageRegions(qemuPid));
  }

  /** Of each block, by the kernel's account. */
  inPlace(): PagePresence[] {
    const { qemuPid, blocks } = this.#options;
    return blocks.map(({ block: { firstPage, pageCount }, hostAddress }) => ({
      firstPage,
      presence: presentPages(qemuPid, hostAddress, pageCount),
    }));
  }

  /** Whether faults are served, so that there is no way back. */
  get isAttached(): boolean {
    return this.#server !== undefined;
  }

  /** Everything goes through the stream after all; requests that have waited are handed on. */
  forgo(): void {
    this.#reader!.attach(undefined);
  }

  /** Puts everything in place that nobody has asked for, what is predicted first. */
  startBackground(): void {
    if (!this.#options.demandOnly) this.#server!.startBackground(this.#options.prediction?.background);
  }

  /** Ends the threads. */
  stop(): void {
    this.#reader?.stop();
    if (this.#server !== undefined) this.#faults = this.#server.trace();
    this.#server?.stop();
    this.#reader = undefined;
    this.#server = undefined;
    if (this.#userfaultfd !== undefined) closeSync(this.#userfaultfd);
    this.#userfaultfd = undefined;
  }

  get #regions(): MemoryRegion[] {
    const { blocks, hostPages } = this.#options;
    return blocks.map(({ block, hostAddress }) => ({
      address: hostAddress,
      firstPage: block.firstPage,
      pageCount: block.pageCount,
      pageBytes: hostPages.bytesIn(block),
    }));
  }

  get #hasHugePages(): boolean {
    return this.#regions.some(({ pageBytes = PAGE_BYTES }) => pageBytes > PAGE_BYTES);
  }

  #takeUserfaultfd(): number {
    const [userfaultfd, ...others] = takeUserfaultfds(this.#options.qemuPid);
    for (const fd of others) closeSync(fd);
    const known = userfaultfd !== undefined && others.length === 0;
    const waits = ({ address, pageCount, pageBytes = PAGE_BYTES }: MemoryRegion): boolean =>
      waitsAt(userfaultfd!, address, address + pageCount * PAGE_BYTES, pageBytes);
    if (known && this.#regions.every(waits)) return userfaultfd;
    if (userfaultfd !== undefined) closeSync(userfaultfd);
    const found = known
      ? 'waits for its pages elsewhere'
      : `has ${userfaultfd === undefined ? 0 : others.length + 1} userfaultfds`;
    throw new VmckptError('TRANSFER_FAILED', `QEMU ${found}: its memory cannot be filled directly`, {
      hint: 'Restore with --path stream.',
    });
  }
}

function qemuGone(): VmckptError {
  return new VmckptError('TRANSFER_FAILED', 'QEMU has gone before all memory was in place');
}
