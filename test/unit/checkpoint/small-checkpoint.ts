/** A checkpoint of one small block of RAM: zero pages, pages of one repeated byte, and pages of data between them. */
import type { Level } from '../../../src/checkpoint/extent-codec.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { manifestParts, syntheticPage, temporaryDir } from './synthetic.js';

const PAGE_COUNT = 1024;

export function contentOf(page: number): Uint8Array {
  if (page % 16 === 0) return new Uint8Array(PAGE_BYTES);
  if (page % 13 === 0) return new Uint8Array(PAGE_BYTES).fill(page);
  return syntheticPage(page);
}

/** Goes with the test; the reader is the caller's to close. */
export async function smallCheckpoint(level: Level): Promise<{ dir: string; reader: CheckpointReader }> {
  const dir = temporaryDir();
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: PAGE_COUNT * PAGE_BYTES }]);
  const writer = CheckpointWriter.create(dir, { layout, level });
  for (let page = 0; page < PAGE_COUNT; page++) {
    await writer.ready();
    writer.data(page, contentOf(page), 0);
  }
  await writer.finish(manifestParts(), Buffer.from('device state'));
  return { dir, reader: await CheckpointReader.open(dir) };
}
