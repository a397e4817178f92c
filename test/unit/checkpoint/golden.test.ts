/** Checkpoints that were written by earlier versions are read for ever, in both languages. */
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { checkCheckpoint } from '../../../src/checkpoint/check.js';
import { readManifest } from '../../../src/checkpoint/manifest.js';
import { openNativeImage } from '../../../src/checkpoint/native-image.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { MemoryFill } from '../../../src/native/index.js';
import { PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';
import { flipExtents } from '../../support/damage.js';
import { format2Manifest } from '../../support/packs.js';
import { memoryOf, stoppedProcess } from '../../support/stopped-process.js';
import { manifestParts, syntheticPage, temporaryDir } from './synthetic.js';

const GOLDEN = path.join(PACKAGE_ROOT, 'fixtures/checkpoints');
/** Of format 2: its packs have hashes of their pages. It also has a hot pack of version 2, of two extents. */
const WITH_HASHES = 'format-2-hashes';
const PAGE_COUNT = 48;
/** One of each of its packs, in an extent of the hot pack. */
const HOT_PAGES = [1, 7];

/** Of the golden checkpoints: the page's bytes, or undefined where it is absent. */
function contentOf(page: number): Uint8Array | undefined {
  if (page % 16 === 5) return undefined;
  if (page % 3 !== 0) return syntheticPage(page, page === 7 ? 1 : 0);
  return new Uint8Array(PAGE_BYTES).fill(page % 9 === 0 ? page : 0);
}

/** The folder of a generation with the golden files of a version. */
function golden(version: string): string {
  const dir = path.join(temporaryDir(), 'web', '1');
  mkdirSync(dir, { recursive: true });
  for (const file of readdirSync(path.join(GOLDEN, version)))
    writeFileSync(
      path.join(dir, path.basename(file, '.br')),
      brotliDecompressSync(readFileSync(path.join(GOLDEN, version, file))),
    );
  return dir;
}

describe.each(['format-1', 'format-2', WITH_HASHES])('the golden checkpoint of %s', (version) => {
  it('is sound', async () => {
    const report = await checkCheckpoint(golden(version));
    expect(report).toMatchObject({ pageCount: PAGE_COUNT, problems: [], problemCount: 0 });
  });

  it('has every page and its device state', async () => {
    const reader = await CheckpointReader.open(golden(version));
    const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
    for (let page = 0; page < PAGE_COUNT; page++) {
      const content = contentOf(page);
      const kind = reader.kindOf(page);
      expect(kind === PAGE_KINDS.absent).toBe(content === undefined);
      if (content === undefined) continue;
      if (kind === PAGE_KINDS.data) reader.readExtent(reader.extentOf(page), into);
      else into.fill(reader.fillByteOf(page));
      const start = kind === PAGE_KINDS.data ? reader.slotOf(page) * PAGE_BYTES : 0;
      expect(Buffer.compare(into.subarray(start, start + PAGE_BYTES), content)).toBe(0);
    }
    expect((await reader.deviceState()).toString()).toBe('device state of the golden machine');
    reader.close();
  });

  it('fills memory through the addon', async () => {
    await expectFilled(golden(version));
  });
});

describe('the golden checkpoint with hashes', () => {
  it('has those of all of its pages: a generation of the same memory stores none', async () => {
    const formerDir = golden(WITH_HASHES);
    const dir = path.join(path.dirname(formerDir), '2');
    mkdirSync(dir);
    const layout = new RamLayout([{ name: 'pc.ram', usedBytes: PAGE_COUNT * PAGE_BYTES }]);
    const writer = CheckpointWriter.create(dir, { layout, level: 1, chain: { formerDir } });
    for (let page = 0; page < PAGE_COUNT; page++) {
      await writer.ready();
      const content = contentOf(page);
      if (content !== undefined) writer.data(page, content, 0);
    }
    const { packs } = await writer.finish(manifestParts(), Buffer.from('device state'));
    const ids = (of: readonly { readonly id: string }[]) => of.map(({ id }) => id);
    expect(ids(packs)).toEqual(ids(format2Manifest(formerDir).packs));
  });

  it('has a hot pack: its extents are read from there', async () => {
    const dir = golden(WITH_HASHES);
    const reader = await CheckpointReader.open(dir);
    flipExtents(dir, reader, [...new Set(HOT_PAGES.map((page) => reader.extentOf(page)))]);
    reader.close();
    expect(await checkCheckpoint(dir)).toMatchObject({ problemCount: HOT_PAGES.length });
    await expectFilled(dir);
  });
});

async function expectFilled(dir: string): Promise<void> {
  const target = await stoppedProcess(PAGE_COUNT);
  const { pid, address } = target;
  const before = memoryOf(target);
  const regions = [{ address, firstPage: 0, pageCount: PAGE_COUNT }];
  const image = openNativeImage(dir, readManifest(dir));
  expect(await new MemoryFill({ image, pid, regions, threads: 2 }).run()).toBe(true);
  const memory = memoryOf(target);
  for (let page = 0; page < PAGE_COUNT; page++) {
    const [start, end] = [page * PAGE_BYTES, (page + 1) * PAGE_BYTES];
    const content = contentOf(page);
    // Without an order, pages that read as zero are left as they are.
    const isData = content?.some((byte) => byte !== 0) ?? false;
    expect(memory.subarray(start, end).equals(isData ? content! : before.subarray(start, end))).toBe(true);
  }
}
