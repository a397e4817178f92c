/**
 * Puts the pages of a RAM block straight into the memory of a QEMU that does not run yet: no stream, no page
 * handled one by one on the other side, and huge pages are kept. Zero pages are left out: fresh memory is zero.
 */
import { writeProcessMemory } from '../native/index.js';
import { PAGE_KINDS, type BulkDecoder, type PageSource } from '../pages/contracts.js';
import { PAGE_BYTES, type PlacedRamBlock } from '../pages/layout.js';
import { decodedSteps, type DecodedStep } from './decoded-steps.js';

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
export async function fillMemory({
  source,
  decoder,
  block,
  pid,
  hostAddress,
  onFilled,
}: MemoryFill): Promise<void> {
  const range = { firstPage: block.firstPage, endPage: block.firstPage + block.pageCount };
  const addressOf = (page: number): bigint => BigInt(hostAddress + (page - block.firstPage) * PAGE_BYTES);
  for await (const step of decodedSteps({ source, decoder, range, isWanted: () => true })) {
    const runs = runsOf(source, step);
    writeProcessMemory(
      pid,
      runs.map(({ bytes }) => bytes),
      BigUint64Array.from(runs, ({ page }) => addressOf(page)),
    );
    onFilled(runs.reduce((sum, { bytes }) => sum + bytes.length / PAGE_BYTES, 0));
  }
}

interface Run {
  readonly page: number;
  readonly bytes: Uint8Array;
}

/** Pages that lie side by side both in an extent and in memory are written as one. */
function runsOf(source: PageSource, { firstPage, endPage, bytesOf }: DecodedStep): Run[] {
  const runs: Run[] = [];
  for (let page = firstPage; page < endPage; page++) {
    const kind = source.kindOf(page);
    if (kind === PAGE_KINDS.fill)
      runs.push({ page, bytes: new Uint8Array(PAGE_BYTES).fill(source.fillByteOf(page)) });
    if (kind !== PAGE_KINDS.data) continue;
    const extent = source.extentOf(page);
    const slot = source.slotOf(page);
    let count = 1;
    while (page + count < endPage && follows(source, page + count, { extent, slot: slot + count })) count++;
    const bytes = bytesOf.get(extent)!.subarray(slot * PAGE_BYTES, (slot + count) * PAGE_BYTES);
    runs.push({ page, bytes });
    page += count - 1;
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
