/** The pages of the process that has a VM's memory: those of hugetlbfs hold many of ours, and come as a whole or not at all. */
import { PAGE_BYTES, type PageRange, type PlacedRamBlock, type RamLayout } from './layout.js';

/** RAM block → bytes of a page, for those whose pages are not of PAGE_BYTES. */
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

  /** The pages of the host's page that holds this one; one alone where host pages are as ours. */
  around(page: number): PageRange {
    const block = this.#layout.blockOf(page);
    const pageCount = this.bytesIn(block) / PAGE_BYTES;
    const firstPage = page - ((page - block.firstPage) % pageCount);
    return { firstPage, endPage: firstPage + pageCount };
  }

  /** All sizes that there are, in one number, as QEMU tells them in POSTCOPY_ADVISE. */
  get sizeBits(): number {
    return this.#layout.blocks.reduce((bits, block) => bits | this.bytesIn(block), PAGE_BYTES);
  }
}
