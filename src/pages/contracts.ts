/**
 * CATALOG + EXTENT SOURCE → TRANSFER → PAGE SINK: the contracts between the rooms. Pages are flat page numbers (see
 * layout.ts); a page is PAGE_BYTES long.
 */
import type { RamLayout } from './layout.js';

/** Takes pages in any order; the last call for a page wins. */
export interface PageSink {
  /** A page whose every byte is `byte` (0 for a zero page). */
  fill(page: number, byte: number): void;
  /** A page's bytes at `bytes[start … start + PAGE_BYTES)`: borrowed, valid only during the call. */
  data(page: number, bytes: Uint8Array, start: number): void;
  /** Resolves when the sink can take another `MAX_BURST_BYTES` of pages: await it between bursts. */
  ready(): Promise<void>;
}

/** What a source may send to a sink between two calls of `ready()`. */
export const MAX_BURST_BYTES = 1 << 20;

export const PAGE_KINDS = { absent: 0, zero: 1, fill: 2, data: 3 } as const;
export type PageKind = (typeof PAGE_KINDS)[keyof typeof PAGE_KINDS];

/**
 * What every page is, and where it is stored. Data pages are stored in extents, which are read, verified and decoded as
 * one. A catalogue is local and small compared with the bytes, so it is synchronous. It is verified on first use.
 */
export interface PageCatalog {
  readonly layout: RamLayout;
  kindOf(page: number): PageKind;
  fillByteOf(page: number): number;
  /** The extent that holds a data page, and the page's position in it. */
  extentOf(page: number): number;
  slotOf(page: number): number;
}

/**
 * Supplies the verified and decoded bytes of extents. They may be anywhere, and a source may lack an extent for a
 * while. Every source must pass test/contracts/extent-source.ts.
 */
export interface ExtentSource {
  /**
   * Reads an extent into `into`, which has room for the longest one, without waiting for anything slower than a disk.
   * Returns its page count; undefined when the source does not have it yet.
   * @throws VmckptError EXTENT_DAMAGED, and then `into` is undefined content; INDEX_DAMAGED
   */
  readNow(extent: number, into: Uint8Array): number | undefined;
  /**
   * Reads many extents off the main thread and may take any time. Afterwards `readNow` has them.
   * @throws VmckptError EXTENT_DAMAGED, INDEX_DAMAGED; the signal's reason
   */
  read(extents: readonly number[], signal?: AbortSignal): Promise<DecodedExtents>;
  /** A hint that these extents will be requested soon. */
  willNeed(extents: readonly number[]): void;
}

export interface DecodedExtents {
  /** The decoded bytes of the extent at this position of the request; valid until `release()`. */
  bytesAt(position: number): Uint8Array;
  release(): void;
}

/** No extent is longer than this. */
export const MAX_EXTENT_PAGES = 64;
