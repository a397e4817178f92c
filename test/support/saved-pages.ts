/** The pages of generations, as their bytes. */
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { MAX_EXTENT_PAGES, PAGE_KINDS } from '../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';

/** By its flat number; those of main memory, which is the first of the blocks, come first. */
export function readPage(reader: CheckpointReader, page: number): Buffer {
  const kind = reader.kindOf(page);
  if (kind !== PAGE_KINDS.data) return Buffer.alloc(PAGE_BYTES, reader.fillByteOf(page));
  const extent = Buffer.alloc(MAX_EXTENT_PAGES * PAGE_BYTES);
  reader.readExtent(reader.extentOf(page), extent);
  const start = reader.slotOf(page) * PAGE_BYTES;
  return extent.subarray(start, start + PAGE_BYTES);
}

/** The pages in which two generations of the same memory differ. */
export async function differingPages(one: string, other: string): Promise<number[]> {
  const readers = [await CheckpointReader.open(one), await CheckpointReader.open(other)] as const;
  try {
    const { pageCount } = readers[0].layout;
    if (readers[1].layout.pageCount !== pageCount) throw new Error('they are not of the same memory');
    return Array.from({ length: pageCount }, (_, page) => page).filter((page) => {
      const [a, b] = readers.map((reader) => readPage(reader, page)) as [Buffer, Buffer];
      return !a.equals(b);
    });
  } finally {
    for (const reader of readers) reader.close();
  }
}
