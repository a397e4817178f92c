/**
 * PAGE SOURCE → TRANSFER → PAGE SINK: the contracts that every room speaks. Pages are flat page numbers
 * (see layout.ts); a page is PAGE_BYTES long.
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

/** What a source may hand to a sink between two `ready()`s. */
export const MAX_BURST_BYTES = 1 << 20;

export const PAGE_KINDS = { absent: 0, zero: 1, fill: 2, data: 3 } as const;
export type PageKind = (typeof PAGE_KINDS)[keyof typeof PAGE_KINDS];

/** Gives any page at any time. Data pages lie together in extents that are read, verified and decoded as one. */
export interface PageSource {
  readonly layout: RamLayout;
  kindOf(page: number): PageKind;
  fillByteOf(page: number): number;
  /** The extent that holds a data page, and the page's place in it. */
  extentOf(page: number): number;
  slotOf(page: number): number;
  /** Reads, verifies and decodes an extent into `into`, now; returns its page count. */
  readExtent(extent: number, into: Uint8Array): number;
}

/** Decodes many extents beside the main thread. */
export interface BulkDecoder {
  decode(extents: readonly number[]): Promise<DecodedExtents>;
}

export interface DecodedExtents {
  /** The decoded bytes of the extent at this place of the request; valid until `release()`. */
  bytesAt(position: number): Uint8Array;
  release(): void;
}

/** No extent is longer than this. */
export const MAX_EXTENT_PAGES = 64;
