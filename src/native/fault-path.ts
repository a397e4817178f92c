/**
 * The native fault path (native/core/fault_server.h): memory is served without a step in JavaScript. Events arrive as
 * calls of the functions given to the constructors, until `stop()`.
 */
import { PAGE_BYTES } from '../pages/layout.js';
import { integer, loadAddon, MAX_THREADS } from './addon.js';

/** A file of extents, and where their records lie; in format 2 both, and chunks of the page index, are in one pack. */
export interface ImageExtentFile {
  readonly place: number;
  /** Of the file with the extents, in messages. */
  readonly name: string;
  readonly extentsFd: number;
  readonly recordsFd: number;
  readonly recordsOffset: number;
  /** Of the checksums of the chunks of records. */
  readonly recordTableOffset: number;
  readonly recordsRoot: bigint;
  readonly extentCount: number;
  readonly chunksOffset: number;
  readonly chunkCount: number;
  /** Of its extents, as a hot pack has it: 32 hexadecimal digits. */
  readonly id: string;
}

/** How a generation that is still arriving arrives: src/page-server/cache-layout.ts. */
export interface ImageArrival {
  /** What is here of each extent file; undefined for one that is whole. */
  readonly presenceFds: readonly (number | undefined)[];
  /** The FIFO for wants, open for reading and writing, non-blocking. */
  readonly wantsFd: number;
  readonly arrivalsFd: number;
}

export interface ImageOptions {
  readonly formatVersion: 1 | 2;
  /** The file with the checksums of the chunks of the page index. */
  readonly pageTableFd: number;
  readonly extentFiles: readonly ImageExtentFile[];
  /** The file `hot-pack`. One that is incomplete, or has nothing of these files, is not used. */
  readonly hotPackFd: number | undefined;
  /** Undefined for a generation that is here. */
  readonly arrival: ImageArrival | undefined;
  readonly pageCount: number;
  /** Maximum number of pages per extent. */
  readonly extentPages: number;
  readonly pageIndexRoot: bigint;
  /** Names the generation in messages. */
  readonly label: string;
}

/** Pages of the VM that are adjacent in a process. */
export interface MemoryRegion {
  /** Below 2^47. */
  readonly address: number;
  readonly firstPage: number;
  readonly pageCount: number;
  /** Page size of the process there: PAGE_BYTES by default, more on hugetlbfs. Such pages are installed whole. */
  readonly pageBytes?: number;
}

/** Times are those of demand faults, from their arrival until the page is in place. */
export interface FaultPathCounters {
  readonly demandFaults: number;
  /** The part of them on pages that were withheld. */
  readonly withheldFaults: number;
  /** Installed because a thread waited for them. */
  readonly demandPages: number;
  /** Installed with them, because they are in the same extents. */
  readonly neighbourPages: number;
  readonly prefetchedPages: number;
  readonly backgroundPages: number;
  readonly zeroPages: number;
  /** Given back by the VM; a page that is given back twice counts twice. */
  readonly removedPages: number;
  /** Requested before their source had them. */
  readonly starvedPages: number;
  /** Time in which at least one fault waited for the source. */
  readonly starvedMs: number;
  readonly faultP50Us: number;
  readonly faultP90Us: number;
  readonly faultP99Us: number;
  readonly faultMaxUs: number;
  readonly faultTotalMs: number;
}

/**
 * `complete`: every page that carries data is in place. `…-damaged`: a page is damaged, and stays missing. `gone`: the
 * process has ended, or no longer waits for pages. `failed`: a system call failed unexpectedly. `starving`: a page was
 * requested that its source does not have yet; it will be served later. `fed`: no page waits any more.
 */
export type ServerEventKind =
  'complete' | 'extent-damaged' | 'index-damaged' | 'gone' | 'failed' | 'starving' | 'fed';

export interface ReturnPathBlock {
  readonly name: string;
  readonly firstPage: number;
  readonly pageCount: number;
  /** The fault server installs its pages. */
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

/** Options must all be present by name, even if undefined (native/binding/options.h). */
interface FaultPathAddon {
  readonly CheckpointImage: new (options: ImageOptions) => NativeImage;
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

/** The open files of a generation; keeps duplicates of the descriptors. An error of its own: INDEX_DAMAGED. */
export class CheckpointImage {
  readonly native: NativeImage;
  readonly pageCount: number;

  constructor(options: ImageOptions) {
    const max = Number.MAX_SAFE_INTEGER;
    for (const file of options.extentFiles) {
      for (const name of ['extentsFd', 'recordsFd', 'place'] as const) integer(name, file[name]);
      for (const name of [
        'recordsOffset',
        'recordTableOffset',
        'extentCount',
        'chunksOffset',
        'chunkCount',
      ] as const)
        integer(name, file[name], { max });
    }
    integer('pageTableFd', options.pageTableFd);
    integer('extentPages', options.extentPages);
    this.pageCount = integer('pageCount', options.pageCount, { max });
    this.native = new (addon().CheckpointImage)(options);
  }

  /** Makes the kernel read into the page cache what these pages need, (firstPage, pageCount) each. Returns at once. */
  readAhead(runs: Uint32Array): void {
    void this.native.readAhead(runs).catch(() => undefined); // a later read reports the error
  }
}

/** The state of every page, in a memfd from which a successor of this process can continue. */
export class PageTable {
  readonly native: NativeTable;

  /** @param memfd the table of a predecessor; EINVAL when it is not a table for that many pages */
  constructor(pageCount: number, memfd?: number) {
    this.native = new (addon().PageTable)(integer('pageCount', pageCount, { max: 0xffff_ffff }), memfd);
  }

  get fd(): number {
    return this.native.fd;
  }

  /** How far the migration stream has come; 0 at first. Stored for the stream's owner and its successors. */
  get streamPhase(): number {
    return this.native.streamPhase;
  }
  set streamPhase(phase: number) {
    this.native.streamPhase = integer('phase', phase);
  }

  counters(): FaultPathCounters {
    return this.native.counters();
  }

  /** Percentiles of demand fault times in µs, from the 0th to the 100th. */
  faultPercentilesUs(): number[] {
    return [...this.native.faultPercentiles()];
  }

  /** The pages in place: [firstPage, pageCount, …], ascending. */
  installed(): Uint32Array {
    return this.native.installed();
  }

  /** Makes pages that a dead process had begun to install available again. */
  forgetClaims(): void {
    this.native.forgetClaims();
  }

  /** Sets which absent pages come first, and which last of all: (firstPage, pageCount) each. */
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
  /** The server keeps a duplicate. */
  readonly userfaultfd: number;
  readonly regions: readonly MemoryRegion[];
  readonly demandThreads: number;
  readonly backgroundThreads: number;
  readonly onEvent: (kind: ServerEventKind, text: string) => void;
  /** The process may give pages back that it has had. Such a page reads as zero afterwards. */
  readonly pagesMayGo?: boolean;
  /** Installs requested pages only, without neighbours. */
  readonly exactly?: boolean;
}

export interface BackgroundPlan {
  /** Sequences of (firstPage, pageCount). */
  readonly predicted: Uint32Array;
  readonly near: Uint32Array;
  readonly likely: Uint32Array;
  /** From now, for everything that is not predicted. */
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

/** Serves faults from construction on. */
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

  /** Makes every thread that waits for a page there fault again: a dead process may have read its first fault. */
  wakeAll(ranges: readonly { readonly start: number; readonly end: number }[]): void {
    const numbers = ranges.flatMap(({ start, end }) => [start, end]);
    this.native.wakeAll(BigUint64Array.from(numbers, BigInt));
  }

  /**
   * Installs all data after the faults: first predicted pages, then near ones, including zero pages; then, not before
   * `restMs`, likely ones and the rest in file order; withheld pages last, not before `withheldMs`. May be called once.
   */
  startBackground({ predicted, near, likely, restMs, withheldMs }: BackgroundPlan = NOTHING_PREDICTED): void {
    const times = { restMs: integer('restMs', restMs), withheldMs: integer('withheldMs', withheldMs) };
    this.native.startBackground({ predicted, near, likely, ...times });
  }

  /** The demand faults so far, unordered: (page, microseconds since this server's start) each. At most 2^20. */
  trace(): Uint32Array {
    return this.native.trace();
  }

  /**
   * Gives the memory back to its process, which then needs no server. Pages that were not installed read as zero. To be
   * called when all data is in place. May fail with a system error.
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
  /** The reader keeps a duplicate. */
  readonly socketFd: number;
  readonly table: PageTable;
  readonly blocks: readonly ReturnPathBlock[];
  /** Whole messages, verbatim: all except the requests that a fault server answers. */
  readonly onMessages: (bytes: Buffer) => void;
  /** The connection has ended; errno is 0 when the other side closed it. */
  readonly onClosed: (errno: number) => void;
}

/** Reads the messages of an incoming QEMU from a migration connection. */
export class ReturnPath {
  readonly #native: NativeReader;

  constructor({ socketFd, table, blocks, onMessages, onClosed }: ReturnPathOptions) {
    this.#native = new (addon().ReturnPath)({
      socketFd: integer('socketFd', socketFd),
      table: table.native,
      // Callers' blocks may have more fields.
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
   * Requests for direct blocks, which have waited, go to `server`. Without a server they are passed on like everything
   * else. May be called once. Stop the reader before the server.
   */
  attach(server: FaultServer | undefined): void {
    this.#native.attach(server?.native);
  }

  /** Returns when its thread has ended. */
  stop(): void {
    this.#native.stop();
  }
}
