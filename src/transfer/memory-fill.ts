/**
 * Puts the pages of a RAM block straight into the memory of a QEMU that does not run yet: no stream, no page
 * handled one by one on the other side, and huge pages are kept. Zero pages are left out: fresh memory is zero.
 */
import { writeProcessMemory } from '../native/index.js';
import { PAGE_KINDS, type BulkDecoder, type MemoryRun, type PageSource } from '../pages/contracts.js';
import { PAGE_BYTES, rangeOf, type PlacedRamBlock } from '../pages/layout.js';
import { stepsOf, type Step } from './decoded-steps.js';

/** Enough that no thread waits for its next one. */
const STEPS_UNDER_WAY = 6;

export interface MemoryFill {
  readonly source: PageSource;
  readonly decoder: BulkDecoder;
  readonly block: PlacedRamBlock;
  /** QEMU's. */
  readonly pid: number;
  /** Where the block begins in QEMU's address space. */
  readonly hostAddress: number;
  /** Told after each step. */
  readonly onFilled: (pageCount: number) => void;
}

/** @throws VmckptError EXTENT_DAMAGED, INDEX_DAMAGED; a system error EPERM without the right to ptrace QEMU */
export async function fillMemory(fill: MemoryFill): Promise<void> {
  const { source, block } = fill;
  const underWay: Promise<void>[] = [];
  try {
    for (const step of stepsOf({ source, range: rangeOf(block), isWanted: () => true })) {
      if (underWay.length === STEPS_UNDER_WAY) await underWay.shift();
      const placed = placeStep(step, fill);
      placed.catch(() => undefined); // awaited in its turn
      underWay.push(placed);
    }
    await Promise.all(underWay);
  } finally {
    await Promise.allSettled(underWay);
  }
}

async function placeStep(step: Step, { source, decoder, block, pid, hostAddress, onFilled }: MemoryFill) {
  const addressOf = (page: number): number => hostAddress + (page - block.firstPage) * PAGE_BYTES;
  const runs = runsOf(source, step, addressOf);
  const repeated = pagesOfOneByte(source, step);
  writeProcessMemory(
    pid,
    repeated.map((page) => new Uint8Array(PAGE_BYTES).fill(source.fillByteOf(page))),
    BigUint64Array.from(repeated, (page) => BigInt(addressOf(page))),
  );
  await decoder.decodeInto(pid, step.extents, runs);
  onFilled(runs.reduce((sum, { pageCount }) => sum + pageCount, repeated.length));
}

function pagesOfOneByte(source: PageSource, { firstPage, endPage }: Step): number[] {
  const pages: number[] = [];
  for (let page = firstPage; page < endPage; page++)
    if (source.kindOf(page) === PAGE_KINDS.fill) pages.push(page);
  return pages;
}

function runsOf(
  source: PageSource,
  { firstPage, endPage, extents }: Step,
  addressOf: (page: number) => number,
): MemoryRun[] {
  const positions = new Map(extents.map((extent, position) => [extent, position]));
  const runs: MemoryRun[] = [];
  for (let page = firstPage; page < endPage; page++) {
    if (source.kindOf(page) !== PAGE_KINDS.data) continue;
    const extent = source.extentOf(page);
    const slot = source.slotOf(page);
    let pageCount = 1;
    while (
      page + pageCount < endPage &&
      follows(source, page + pageCount, { extent, slot: slot + pageCount })
    )
      pageCount++;
    runs.push({ position: positions.get(extent)!, slot, pageCount, address: addressOf(page) });
    page += pageCount - 1;
  }
  return runs;
}

function follows(
  source: PageSource,
  page: number,
  { extent, slot }: { extent: number; slot: number },
): boolean {
  return (
    source.kindOf(page) === PAGE_KINDS.data &&
    source.extentOf(page) === extent &&
    source.slotOf(page) === slot
  );
}
