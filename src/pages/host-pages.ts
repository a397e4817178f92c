/**
 * The pages of the process that owns a VM's memory. Those of hugetlbfs span many 4 KiB pages, and come whole or not
 * at all.
 */
import { PAGE_BYTES, type PageRange, type PlacedRamBlock, type RamLayout } from './layout.js';

/** RAM block → page size in bytes, for blocks whose pages are not PAGE_BYTES long. */
export type HugePageSizes = Readonly<Record<string, number>>;

export class HostPages {
  readonly #layout: RamLayout;
  readonly #sizes: HugePageSizes;

  constructor(layout: RamLayout, sizes: HugePageSizes = {}) {
    this.#layout = layout;
    this.#sizes = sizes;
  }

  bytesIn({ name }: PlacedRamBlock): number {
    return this.#sizes[name] ?? PAGE_BYTES;
  }

  /** The 4 KiB pages of the host page that holds this one; only itself when host pages are 4 KiB. */
  around(page: number): PageRange {
    const block = this.#layout.blockOf(page);
    const pageCount = this.bytesIn(block) / PAGE_BYTES;
    const firstPage = page - ((page - block.firstPage) % pageCount);
    return { firstPage, endPage: firstPage + pageCount };
  }

  /** All page sizes combined in one number, as POSTCOPY_ADVISE carries them. */
  get sizeBits(): number {
    return this.#layout.blocks.reduce((bits, block) => bits | this.bytesIn(block), PAGE_BYTES);
  }
}
