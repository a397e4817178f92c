/**
 * The native fault path (native/core/fault_server.h): memory served without a step in JavaScript. What happens there
 * arrives as calls of the functions given to the constructors, until `stop()`.
 */
import { PAGE_BYTES } from '../pages/layout.js';
import { integer, loadAddon, MAX_THREADS } from './addon.js';

export interface ImageFacts {
  readonly pageCount: number;
  readonly extentCount: number;
  /** The most pages that an extent holds. */
  readonly extentPages: number;
  readonly pageIndexRoot: bigint;
  readonly extentIndexRoot: bigint;
  /** Names the generation in messages. */
  readonly label: string;
}

export interface ImageFiles {
  readonly pageIndexFd: number;
  readonly extentIndexFd: number;
  readonly pagesFd: number;
  /** Of the file `hot-pack`; one that is not whole is not used. */
  readonly hotPackFd?: number | undefined;
}

/** Pages of the VM that lie side by side in a process. */
export interface MemoryRegion {
  /** Below 2^47. */
  readonly address: number;
  readonly firstPage: number;
  readonly pageCount: number;
  /** The process's pages there: PAGE_BYTES by default, more on hugetlbfs. They are installed whole. */
  readonly pageBytes?: number;
}

/** Times are those of demand faults, from their arrival until the page is in place. */
export interface FaultPathCounters {
  readonly demandFaults: number;
  /** Of them, those on pages that were withheld. */
  readonly withheldFaults: number;
  /** Installed because somebody waited for them. */
  readonly demandPages: number;
  /** Of the same extents. */
  readonly neighbourPages: number;
  readonly prefetchedPages: number;
  readonly backgroundPages: number;
  readonly zeroPages: number;
  /** Given back by the VM; one that is given back twice counts twice. */
  readonly removedPages: number;
  /** Asked for before their source had them. */
  readonly starvedPages: number;
  /** In which at least one fault waited for the source. */
  readonly starvedMs: number;
  readonly faultP50Us: number;
  readonly faultP90Us: number;
  readonly faultP99Us: number;
  readonly faultMaxUs: number;
  readonly faultTotalMs: number;
}

/**
 * `complete`: every page that carries data is in place. `…-damaged`: one cannot be had, and stays missing. `gone`: the
 * process has ended, or waits for no pages any more. `failed`: a system call failed that should not. `starving`: a page
 * is asked for that its source does not have yet, and will be served when it does; `fed`: none waits any more.
 */
export type ServerEventKind =
  'complete' | 'extent-damaged' | 'index-damaged' | 'gone' | 'failed' | 'starving' | 'fed';

export interface ReturnPathBlock {
  readonly name: string;
  readonly firstPage: number;
  readonly pageCount: number;
  /** Its pages are the fault server's. */
  readonly isDirect: boolean;
}

/** For each page from `firstPage` on: 1 if it is in place. */
export interface PagePresence {
  readonly firstPage: number;
  readonly presence: Uint8Array;
}

interface NativeImage {
  readAhead(runs: Uint32Array): Promise<void>;
}
interface NativeTable {
  readonly fd: number;
  streamPhase: number;
  counters(): FaultPathCounters;
  faultPercentiles(): Float64Array;
  installed(): Uint32Array;
  forgetClaims(): void;
  markInstalled(firstPage: number, presence: Uint8Array): void;
  plan(runs: Uint32Array, isWithheld: boolean): void;
}
interface NativeServer {
  wakeAll(ranges: BigUint64Array): void;
  startBackground(plan: BackgroundPlan): void;
  trace(): Uint32Array;
  handBack(): void;
  stop(): void;
}
interface NativeReader {
  attach(server: NativeServer | undefined): void;
  stop(): void;
}

/** Every name is there, those of options that are not given as well (native/binding/options.h). */
interface FaultPathAddon {
  readonly CheckpointImage: new (options: Required<ImageFiles> & ImageFacts) => NativeImage;
  readonly PageTable: new (pageCount: number, memfd: number | undefined) => NativeTable;
  readonly FaultServer: new (options: {
    readonly image: object;
    readonly table: NativeTable;
    readonly userfaultfd: number;
    readonly regions: BigUint64Array;
    readonly demandThreads: number;
    readonly backgroundThreads: number;
    readonly onEvent: (kind: ServerEventKind, text: string) => void;
    readonly pagesMayGo: boolean;
    readonly exactly: boolean;
  }) => NativeServer;
  readonly ReturnPath: new (options: {
    readonly socketFd: number;
    readonly table: NativeTable;
    readonly blocks: readonly ReturnPathBlock[];
    readonly onRead: (bytes: Buffer | undefined, errno: number) => void;
  }) => NativeReader;
}

const addon = loadAddon<FaultPathAddon>;

/** The files of a generation, opened; duplicates of the descriptors are kept. An error of its own: INDEX_DAMAGED. */
export class CheckpointImage {
  readonly native: NativeImage;
  readonly pageCount: number;

  constructor(files: ImageFiles, facts: ImageFacts) {
    const max = Number.MAX_SAFE_INTEGER;
    this.pageCount = facts.pageCount;
    this.native = new (addon().CheckpointImage)({
      pageIndexFd: integer('pageIndexFd', files.pageIndexFd),
      extentIndexFd: integer('extentIndexFd', files.extentIndexFd),
      pagesFd: integer('pagesFd', files.pagesFd),
      hotPackFd: files.hotPackFd,
      pageCount: integer('pageCount', facts.pageCount, { max }),
      extentCount: integer('extentCount', facts.extentCount, { max }),
      extentPages: integer('extentPages', facts.extentPages),
      pageIndexRoot: facts.pageIndexRoot,
      extentIndexRoot: facts.extentIndexRoot,
      label: facts.label,
    });
  }

  /** Lets the kernel read into the page cache what these pages need, (firstPage, pageCount) each; returns at once. */
  readAhead(runs: Uint32Array): void {
    void this.native.readAhead(runs).catch(() => undefined); // whoever needs these pages will hear of it
  }
}

/** What is known of every page, in a memfd that a successor of this process can go on from. */
export class PageTable {
  readonly native: NativeTable;

  /** @param memfd the table of a process before this one; EINVAL when it is not one for so many pages */
  constructor(pageCount: number, memfd?: number) {
    this.native = new (addon().PageTable)(integer('pageCount', pageCount, { max: 0xffff_ffff }), memfd);
  }

  get fd(): number {
    return this.native.fd;
  }

  /** How far the migration stream has come; 0 at first. Kept for the stream's owner and its successors. */
  get streamPhase(): number {
    return this.native.streamPhase;
  }
  set streamPhase(phase: number) {
    this.native.streamPhase = integer('phase', phase);
  }

  counters(): FaultPathCounters {
    return this.native.counters();
  }

  /** Of the times of demand faults, µs: the 0th to the 100th percentile. */
  faultPercentilesUs(): number[] {
    return [...this.native.faultPercentiles()];
  }

  /** The pages in place: [firstPage, pageCount, …], ascending. */
  installed(): Uint32Array {
    return this.native.installed();
  }

  /** What a dead process had begun to install can be installed again. */
  forgetClaims(): void {
    this.native.forgetClaims();
  }

  /** Which absent pages are to come first, and which last of all: (firstPage, pageCount) each. */
  plan({ queued, withheld }: { readonly queued: Uint32Array; readonly withheld: Uint32Array }): void {
    this.native.plan(withheld, true);
    this.native.plan(queued, false);
  }

  markInstalled({ firstPage, presence }: PagePresence): void {
    this.native.markInstalled(integer('firstPage', firstPage, { max: 0xffff_ffff }), presence);
  }
}

export function regionNumbers(regions: readonly MemoryRegion[]): BigUint64Array {
  const numbers = regions.flatMap(({ address, firstPage, pageCount, pageBytes = PAGE_BYTES }) => [
    ...[address, firstPage, pageCount, pageBytes],
  ]);
  return BigUint64Array.from(numbers, BigInt);
}

export interface FaultServerOptions {
  readonly image: CheckpointImage;
  readonly table: PageTable;
  /** A duplicate is kept. */
  readonly userfaultfd: number;
  readonly regions: readonly MemoryRegion[];
  readonly demandThreads: number;
  readonly backgroundThreads: number;
  readonly onEvent: (kind: ServerEventKind, text: string) => void;
  /** The process may give pages back that it has had: such a page reads as zero from then on. */
  readonly pagesMayGo?: boolean;
  /** Pages are installed that are asked for, and none beside them. */
  readonly exactly?: boolean;
}

export interface BackgroundPlan {
  /** Sequences of (firstPage, pageCount). */
  readonly predicted: Uint32Array;
  readonly near: Uint32Array;
  readonly likely: Uint32Array;
  /** From now, for what is not predicted. */
  readonly restMs: number;
  readonly withheldMs: number;
}

const NO_PAGES = new Uint32Array(0);
const NOTHING_PREDICTED: BackgroundPlan = {
  predicted: NO_PAGES,
  near: NO_PAGES,
  likely: NO_PAGES,
  restMs: 0,
  withheldMs: 0,
};

/** Serves faults from its construction on. */
export class FaultServer {
  readonly native: NativeServer;

  constructor(options: FaultServerOptions) {
    const { image, table, userfaultfd, regions, demandThreads, backgroundThreads, onEvent } = options;
    this.native = new (addon().FaultServer)({
      image: image.native,
      table: table.native,
      userfaultfd: integer('userfaultfd', userfaultfd),
      regions: regionNumbers(regions),
      demandThreads: integer('demandThreads', demandThreads, { max: MAX_THREADS }),
      backgroundThreads: integer('backgroundThreads', backgroundThreads, { min: 1, max: MAX_THREADS }),
      onEvent,
      pagesMayGo: options.pagesMayGo === true,
      exactly: options.exactly === true,
    });
  }

  /** Lets every thread that waits for a page there try again: a process that died may have heard of it. */
  wakeAll(ranges: readonly { readonly start: number; readonly end: number }[]): void {
    const numbers = ranges.flatMap(({ start, end }) => [start, end]);
    this.native.wakeAll(BigUint64Array.from(numbers, BigInt));
  }

  /**
   * Installs all data behind the faults: predicted pages first, then near ones, zero ones too; then, not before `restMs`, likely ones and
   * the rest in the order of the file; withheld ones last, not before `withheldMs`. Once only.
   */
  startBackground({ predicted, near, likely, restMs, withheldMs }: BackgroundPlan = NOTHING_PREDICTED): void {
    const times = { restMs: integer('restMs', restMs), withheldMs: integer('withheldMs', withheldMs) };
    this.native.startBackground({ predicted, near, likely, ...times });
  }

  /** The demand faults so far, in no order: (page, microseconds since this server's start) each. At most 2^20. */
  trace(): Uint32Array {
    return this.native.trace();
  }

  /**
   * Gives the memory back to its process: it needs no server any more, and what was not installed reads as zero. For
   * when all data is in place. May fail with a system error.
   */
  handBack(): void {
    this.native.handBack();
  }

  /** Returns when its threads have ended. Nothing else may be called afterwards. */
  stop(): void {
    this.native.stop();
  }
}

export interface ReturnPathOptions {
  /** A duplicate is kept. */
  readonly socketFd: number;
  readonly table: PageTable;
  readonly blocks: readonly ReturnPathBlock[];
  /** Whole messages, as they came: all but the requests that a fault server answers. */
  readonly onMessages: (bytes: Buffer) => void;
  /** The connection has ended; errno is 0 when the other side closed it. */
  readonly onClosed: (errno: number) => void;
}

/** Reads what an incoming QEMU says on a migration connection. */
export class ReturnPath {
  readonly #native: NativeReader;

  constructor({ socketFd, table, blocks, onMessages, onClosed }: ReturnPathOptions) {
    this.#native = new (addon().ReturnPath)({
      socketFd: integer('socketFd', socketFd),
      table: table.native,
      // Callers' blocks may know more about themselves.
      blocks: blocks.map(({ name, firstPage, pageCount, isDirect }) => ({
        name,
        firstPage,
        pageCount,
        isDirect,
      })),
      onRead: (bytes, errno) => (bytes === undefined ? onClosed(errno) : onMessages(bytes)),
    });
  }

  /**
   * Requests for direct blocks, which have waited, go to `server`; without one they are handed on like everything
   * else. Once only. Stop the reader before the server.
   */
  attach(server: FaultServer | undefined): void {
    this.#native.attach(server?.native);
  }

  /** Returns when its thread has ended. */
  stop(): void {
    this.#native.stop();
  }
}
