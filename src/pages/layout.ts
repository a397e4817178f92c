/**
 * The RAM of a VM as one row of pages. QEMU names memory by (RAM block, byte offset); inside vmckpt a page is
 * one integer, its *flat page number*: the blocks of the layout in order, each padded to whole pages.
 * Bitmaps, the page index and counters are then plain arrays over flat page numbers.
 */
import { VmckptError } from '../errors.js';

export const PAGE_BYTES = 4096;
const MAX_BLOCKS = 4096;
const MAX_BLOCK_NAME_BYTES = 255;

export interface RamBlock {
  /** QEMU's idstr, for example `pc.ram`; 1–255 bytes. */
  readonly name: string;
  /** The used length as MEM_SIZE states it; a multiple of PAGE_BYTES. */
  readonly usedBytes: number;
}

export interface PlacedRamBlock extends RamBlock {
  readonly index: number;
  /** Flat page number of the block's first page. */
  readonly firstPage: number;
  readonly pageCount: number;
}

export interface PageRange {
  readonly firstPage: number;
  readonly endPage: number;
}

export function rangeOf({ firstPage, pageCount }: PlacedRamBlock): PageRange {
  return { firstPage, endPage: firstPage + pageCount };
}

export class RamLayout {
  readonly blocks: readonly PlacedRamBlock[];
  readonly pageCount: number;
  readonly ramBytes: number;
  readonly #byName: ReadonlyMap<string, PlacedRamBlock>;

  /** @throws VmckptError STREAM_MALFORMED when blocks are nameless, duplicate, unaligned or too many. */
  constructor(blocks: readonly RamBlock[]) {
    if (blocks.length > MAX_BLOCKS) malformed(`${blocks.length} RAM blocks, expected at most ${MAX_BLOCKS}`);
    const placed: PlacedRamBlock[] = [];
    const byName = new Map<string, PlacedRamBlock>();
    let firstPage = 0;
    for (const [index, { name, usedBytes }] of blocks.entries()) {
      const nameBytes = Buffer.byteLength(name, 'latin1');
      if (nameBytes === 0 || nameBytes > MAX_BLOCK_NAME_BYTES)
        malformed(`RAM block ${index} has a name of ${nameBytes} bytes`);
      if (byName.has(name)) malformed(`RAM block "${name}" appears twice`);
      if (!Number.isSafeInteger(usedBytes) || usedBytes < 0 || usedBytes % PAGE_BYTES !== 0)
        malformed(`RAM block "${name}" has ${usedBytes} bytes, expected a multiple of ${PAGE_BYTES}`);
      const block = { index, name, usedBytes, firstPage, pageCount: usedBytes / PAGE_BYTES };
      placed.push(block);
      byName.set(name, block);
      firstPage += block.pageCount;
    }
    if (firstPage > 0xffff_ffff) malformed(`${firstPage} pages of RAM, expected at most 2^32 - 1`);
    this.blocks = placed;
    this.pageCount = firstPage;
    this.ramBytes = firstPage * PAGE_BYTES;
    this.#byName = byName;
  }

  byName(name: string): PlacedRamBlock | undefined {
    return this.#byName.get(name);
  }

  /** The block that holds a flat page number. There are few blocks, and the first one is nearly always right. */
  blockOf(page: number): PlacedRamBlock {
    for (const block of this.blocks) if (page - block.firstPage < block.pageCount) return block;
    throw new RangeError(`page ${page} lies outside a RAM of ${this.pageCount} pages`);
  }
}

function malformed(message: string): never {
  throw new VmckptError('STREAM_MALFORMED', message);
}
