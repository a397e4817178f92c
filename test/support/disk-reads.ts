/** A tiny VM that reads its disk into memory, for ever: which reads a generation of it must have. */
import { readFileSync, writeFileSync } from 'node:fs';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import { PAGES_READ, PAGES_READ_TO, READ_COUNT, READ_FROM, READ_TO, bootImage } from './boot-sectors.js';
import { readPage } from './saved-pages.js';

/** With the program that reads, and pages that tell which of the image they are. */
export function readableImage(dir: string): string {
  const image = bootImage(dir, 'readOn');
  const pages = Buffer.alloc(READ_FROM + PAGES_READ * PAGE_BYTES);
  readFileSync(image).copy(pages, 0, 0, READ_FROM);
  for (let page = 0; page < PAGES_READ; page++)
    for (let at = 0; at < PAGE_BYTES; at += 4)
      pages.writeUInt32LE(page + 1, READ_FROM + page * PAGE_BYTES + at);
  writeFileSync(image, pages);
  return image;
}

/** Of a captured VM that reads on: the pages that are not as the reads before the instant have left them. */
export async function wrongReads(generation: string): Promise<string[]> {
  const reader = await CheckpointReader.open(generation);
  try {
    const count = readPage(reader, 0).readUInt32LE(READ_COUNT);
    const wrong: string[] = [];
    for (let page = 0; page < PAGES_READ_TO; page++) {
      // The read that was under way, whose number is the count, may be over.
      const last = count - 1 - ((count - 1 - page) % PAGES_READ_TO);
      const read = [...(last < count ? [last] : []), ...(count % PAGES_READ_TO === page ? [count] : [])];
      // Zero until the first read into it.
      const expected = [...(last < count ? [] : [0]), ...read.map((n) => (n % PAGES_READ) + 1)];
      const found = wordsOf(reader, READ_TO / PAGE_BYTES + page);
      if (found.length !== 1 || !expected.includes(found[0]!))
        wrong.push(`page ${page}: ${found.slice(0, 3).join()} found, ${expected.join(' or ')} expected`);
    }
    return wrong;
  } finally {
    reader.close();
  }
}

/** Of a captured VM that waited for its next page: those of the last reads that it has got and that are not in it. */
export async function lostReads(generation: string, offsets: readonly number[]): Promise<string[]> {
  const reader = await CheckpointReader.open(generation);
  try {
    return offsets.slice(-PAGES_READ_TO).flatMap((offset) => {
      const expected = (offset - READ_FROM) / PAGE_BYTES + 1;
      const found = wordsOf(reader, pageReadTo(offset));
      const isThere = found.length === 1 && found[0] === expected;
      return isThere ? [] : [`${found.slice(0, 3).join()} found, ${expected} expected`];
    });
  } finally {
    reader.close();
  }
}

/** Where in main memory the page at an offset of the disk is read to. */
export function pageReadTo(offset: number): number {
  return READ_TO / PAGE_BYTES + (((offset - READ_FROM) / PAGE_BYTES) % PAGES_READ_TO);
}

/** The different words of a page. */
function wordsOf(reader: CheckpointReader, page: number): number[] {
  const bytes = readPage(reader, page);
  return [...new Set(Array.from({ length: PAGE_BYTES / 4 }, (_, at) => bytes.readUInt32LE(at * 4)))];
}
