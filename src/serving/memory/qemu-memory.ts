/**
 * The direct path: native threads fill QEMU's memory through a duplicate of QEMU's own userfaultfd, and read the faults
 * and QEMU's return path themselves. The migration stream carries none of these pages. docs/direct.md explains how and
 * why.
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

/** How far the migration stream has come, for a successor. The page table begins with 0. */
const STREAM_PHASES = { idle: 1, ending: 2 } as const;

export interface BlockInQemu {
  readonly block: PlacedRamBlock;
  /** Start of the block in QEMU's address space. */
  readonly hostAddress: number;
}

export interface QemuMemoryOptions {
  readonly image: CheckpointImage;
  readonly layout: RamLayout;
  readonly qemuPid: number;
  /** The blocks that are filled directly. */
  readonly blocks: readonly BlockInQemu[];
  /** Page sizes of QEMU's memory. */
  readonly hostPages: HostPages;
  /** Descriptors that a predecessor left. */
  readonly pageTable: number | undefined;
  readonly userfaultfd: number | undefined;
  /** Installs only pages that are requested. */
  readonly demandOnly: boolean;
  /** Installs requested pages without their neighbours. */
  readonly exactly: boolean;
  /** Undefined for a successor. */
  readonly prediction: Prediction | undefined;
}

export class QemuMemory {
  /** Resolves when all data is in place; rejects when that is impossible. */
  readonly complete: Promise<void>;
  readonly #options: QemuMemoryOptions;
  readonly #table: PageTable;
  #userfaultfd: number | undefined;
  #settle!: { resolve: () => void; reject: (error: Error) => void };
  #reader: ReturnPath | undefined;
  #filled: FilledMemory | undefined;
  #server: FaultServer | undefined;
  #faults: Uint32Array = new Uint32Array(0);

  constructor(options: QemuMemoryOptions) {
    this.#options = options;
    this.#table = new PageTable(options.layout.pageCount, options.pageTable);
    this.#table.forgetClaims();
    this.#userfaultfd = options.userfaultfd;
    this.complete = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.complete.catch(() => undefined); // awaited by what serves the memory
  }

  /**
   * Installs what will be touched first. For the time between DISCARD and LISTEN, when QEMU has emptied its memory and
   * does not wait for pages yet. Does nothing if this process may not write into QEMU.
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

  /** Whether a fault waits for a source that does not have its page yet. */
  get waitsForSource(): boolean {
    return this.#filled?.waitsForSource ?? false;
  }

  /** Whether a successor could continue the stream where it is: no message is half sent. */
  get isStreamIdle(): boolean {
    return this.#table.streamPhase === STREAM_PHASES.idle;
  }

  /** Deposits with the keeper everything that must outlive this process. From here on the stream is idle. */
  bequeath(migrationSocket: number): void {
    this.#table.streamPhase = STREAM_PHASES.idle;
    bequeath([
      ['pageTable', this.#table.fd],
      ['userfaultfd', this.#userfaultfd!],
      ['migrationSocket', migrationSocket],
    ]);
  }

  /** Called just before the end of the stream is written. A successor cannot continue after half of it. */
  noteEnd(): void {
    this.#table.streamPhase = STREAM_PHASES.ending;
  }

  /** Reads the migration connection from here on. Requests for blocks of the direct path wait until `attach()`. */
  listen(socketFd: number, onBytes: (bytes: Buffer) => void, onClosed: () => void): void {
    const { layout } = this.#options;
    const blocks = layout.blocks.map((block) => ({ ...block, isDirect: this.owns(block) }));
    this.#reader = new ReturnPath({ socketFd, table: this.#table, blocks, onMessages: onBytes, onClosed });
  }

  /**
   * Takes QEMU's userfaultfd, which exists once QEMU has executed LISTEN, and serves faults from here on.
   * @throws a system error EPERM or EACCES without the right to ptrace QEMU; VmckptError TRANSFER_FAILED when the
   *   memory is not where it was
   */
  attach(): void {
    const { image } = this.#options;
    this.#userfaultfd ??= this.#takeUserfaultfd();
    this.#filled = new FilledMemory({
      image,
      table: this.#table,
      userfaultfd: this.#userfaultfd,
      regions: this.#regions,
      exactly: this.#options.exactly,
      onDamage: (damage) => this.#settle.reject(damage),
    });
    this.#server = this.#filled.server;
    this.#filled.settled.then((how) => {
      if (how === 'complete') this.#settle.resolve();
      else this.#settle.reject(qemuGone());
    }, this.#settle.reject);
    this.#reader!.attach(this.#server);
  }

  /** The demand faults until `stop()`, for the working set. */
  observed(): { readonly faults: Uint32Array; readonly beganAtMs: number } {
    return { faults: this.#faults, beganAtMs: this.#filled?.beganAtMs ?? 0 };
  }

  /** `attach` for a successor: it knows which pages are in place, and every waiting thread faults again. */
  reattach(): void {
    const { qemuPid, pageTable } = this.#options;
    // For a huge page, the kernel gives the same error when the page is there and when it has none to give.
    if (pageTable === undefined || this.#hasHugePages)
      for (const part of this.inPlace()) this.#table.markInstalled(part);
    this.attach();
    this.#server!.wakeAll(missingPageRegions(qemuPid));
  }

  /** The pages in place in each block, according to the kernel. */
  inPlace(): PagePresence[] {
    const { qemuPid, blocks } = this.#options;
    return blocks.map(({ block: { firstPage, pageCount }, hostAddress }) => ({
      firstPage,
      presence: presentPages(qemuPid, hostAddress, pageCount),
    }));
  }

  /** Whether faults are being served. From then on the stream cannot replace this path. */
  get isAttached(): boolean {
    return this.#server !== undefined;
  }

  /** Gives up: everything goes through the stream, and requests that have waited are handed on. */
  forgo(): void {
    this.#reader!.attach(undefined);
  }

  /** Installs everything that is not requested, predicted pages first. */
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
  return new VmckptError('TRANSFER_FAILED', 'QEMU ended before all memory was in place');
}
