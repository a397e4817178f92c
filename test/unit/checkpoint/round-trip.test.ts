import { readFileSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { FileExtents } from '../../../src/checkpoint/file-extents.js';
import { packParts } from '../../../src/checkpoint/format.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { manifestParts, syntheticPage, temporaryDir } from './synthetic.js';
import { coreFiles, ownPack } from '../../support/packs.js';

const layout = new RamLayout([
  { name: 'pc.ram', usedBytes: 3000 * PAGE_BYTES },
  { name: 'vga.vram', usedBytes: 1000 * PAGE_BYTES },
  { name: '/rom@etc/acpi/tables', usedBytes: 32 * PAGE_BYTES },
]);
const deviceState = Buffer.from('device state of a machine');

/** 'absent', 'zero', a fill byte, or data of some version. */
type Content = 'absent' | 'zero' | { fill: number } | { version: number };

function contentOf(page: number): Content {
  if (page % 11 === 0) return 'absent';
  if (page % 7 === 0) return 'zero';
  if (page % 13 === 0) return { fill: 1 + (page % 255) };
  return { version: 0 };
}

async function write(writer: CheckpointWriter, page: number, content: Content): Promise<void> {
  if (content === 'absent') return;
  if (content === 'zero') writer.fill(page, 0);
  else if ('fill' in content) writer.fill(page, content.fill);
  else writer.data(page, syntheticPage(page, content.version), 0);
  await writer.ready();
}

function expectPage(reader: CheckpointReader, page: number, content: Content): void {
  const bytes = new Uint8Array(reader.extentPages * PAGE_BYTES);
  if (content === 'absent') expect(reader.kindOf(page)).toBe(PAGE_KINDS.absent);
  else if (content === 'zero') expect(reader.kindOf(page)).toBe(PAGE_KINDS.zero);
  else if ('fill' in content) {
    expect(reader.kindOf(page)).toBe(PAGE_KINDS.fill);
    expect(reader.fillByteOf(page)).toBe(content.fill);
  } else {
    expect(reader.kindOf(page)).toBe(PAGE_KINDS.data);
    reader.readExtent(reader.extentOf(page), bytes);
    const start = reader.slotOf(page) * PAGE_BYTES;
    const found = bytes.subarray(start, start + PAGE_BYTES);
    expect(Buffer.compare(found, syntheticPage(page, content.version))).toBe(0);
  }
}

describe.each([
  { level: 1, extentPages: 8 },
  { level: 3, extentPages: 1 },
  { level: 1, extentPages: 7 },
  { level: 'none' as const, extentPages: 8 },
  { level: 19, extentPages: 64 },
])('a checkpoint of level $level with $extentPages pages an extent', ({ level, extentPages }) => {
  it('gives back every page, the device state and the manifest', async () => {
    const dir = temporaryDir();
    const writer = CheckpointWriter.create(dir, { layout, level, extentPages });
    for (let page = layout.pageCount - 1; page >= 0; page--) await write(writer, page, contentOf(page));
    const written = await writer.finish(manifestParts(), deviceState);

    const reader = await CheckpointReader.open(dir);
    expect(reader.manifest).toEqual(written);
    expect(reader.layout).toEqual(layout);
    expect(await reader.deviceState()).toEqual(deviceState);
    for (let page = 0; page < layout.pageCount; page++) expectPage(reader, page, contentOf(page));
    reader.close();
  });

  it('decodes in bulk what it decodes one by one', async () => {
    const dir = temporaryDir();
    const writer = CheckpointWriter.create(dir, { layout, level, extentPages });
    for (let page = 0; page < 1000; page++) await write(writer, page, { version: 0 });
    await writer.finish(manifestParts(), deviceState);
    const reader = await CheckpointReader.open(dir);
    const source = new FileExtents(reader);
    const extents = Array.from({ length: reader.extentCount }, (_, extent) => extent);
    const single = new Uint8Array(extentPages * PAGE_BYTES);
    for (const request of [
      extents,
      [...extents].reverse(),
      extents.filter((extent) => extent % 3 === 0),
      [],
    ]) {
      const decoded = await source.read(request);
      for (const [position, extent] of request.entries()) {
        const pageCount = reader.readExtent(extent, single);
        expect(Buffer.compare(decoded.bytesAt(position), single.subarray(0, pageCount * PAGE_BYTES))).toBe(0);
      }
      decoded.release();
    }
    await source.close();
    reader.close();
  });
});

describe('CheckpointWriter', () => {
  it('keeps the newest version of a page, wherever the older one is', async () => {
    const dir = temporaryDir();
    const writer = CheckpointWriter.create(dir, { layout, level: 1 });
    const last = new Map<number, Content>();
    for (let round = 0; round < 12; round++)
      for (let page = 0; page < 600; page += 1 + (round % 3)) {
        const content: Content =
          (page + round) % 5 === 0 ? 'zero' : (page + round) % 9 === 0 ? { fill: 7 } : { version: round };
        last.set(page, content);
        await write(writer, page, content);
      }
    await writer.finish(manifestParts(), deviceState);
    const reader = await CheckpointReader.open(dir);
    for (const [page, content] of last) expectPage(reader, page, content);
    reader.close();
  });

  it('stores a data page of one repeated byte as such, and counts kinds as they end up', async () => {
    const dir = temporaryDir();
    const writer = CheckpointWriter.create(dir, { layout, level: 1 });
    writer.data(0, new Uint8Array(PAGE_BYTES), 0);
    writer.data(1, new Uint8Array(3 * PAGE_BYTES).fill(9), 5);
    writer.data(2, syntheticPage(2), 0);
    writer.data(3, syntheticPage(3), 0);
    writer.fill(3, 0);
    expect(writer.stats).toMatchObject({ dataPages: 1, fillPages: 1, zeroPages: 2, supersededPages: 1 });
    const manifest = await writer.finish(manifestParts(), deviceState);
    expect(manifest.pages).toMatchObject({ dataPageCount: 1, fillPageCount: 1, zeroPageCount: 2 });
    expect(manifest.sizes.nonZeroBytes).toBe(2 * PAGE_BYTES);
  });

  it.each([
    { level: 1 as const, extentPages: 8, what: 'compresses eight pages together' },
    { level: 'none' as const, extentPages: 4, what: 'keeps but four together uncompressed' },
  ])('$what', async ({ level, extentPages }) => {
    const writer = CheckpointWriter.create(temporaryDir(), { layout, level });
    for (let page = 0; page < 40; page++) await write(writer, page, { version: 0 });
    const { pages } = await writer.finish(manifestParts(), deviceState);
    expect(pages).toMatchObject({ extentPages, extentCount: 40 / extentPages });
  });

  it('leaves at most 10 % superseded data, and no files but those of the format', async () => {
    const dir = temporaryDir();
    const writer = CheckpointWriter.create(dir, { layout, level: 'none' });
    for (let round = 0; round < 5; round++)
      for (let page = 0; page < 2500; page += 1 + round) await write(writer, page, { version: round });
    expect(writer.stats.supersededPages).toBeGreaterThan(1000);
    const finished = writer.finish(manifestParts(), deviceState);
    // Old and new data do not fit into twice the memory side by side.
    expect(await mostBytesIn(dir, finished)).toBeLessThan(2 * layout.ramBytes);
    const { pages, sizes } = await finished;
    expect(pages.supersededPageCount * PAGE_BYTES).toBeLessThanOrEqual(pages.fileBytes * 0.1);
    expect(pages.fileBytes).toBeLessThan(2500 * PAGE_BYTES * 1.1 + (1 << 20));
    const files = readdirSync(dir).filter((file) => file !== 'manifest.json');
    expect(files.sort()).toEqual(['device-state', path.basename(ownPack(dir)), 'page-chunks']);
    const stored = files.reduce((sum, file) => sum + statSync(path.join(dir, file)).size, 0);
    expect(sizes.storedBytes).toBe(stored);
    const reader = await CheckpointReader.open(dir);
    for (let page = 0; page < 2500; page++) {
      const rounds = [4, 3, 2, 1, 0];
      expectPage(reader, page, { version: rounds.find((round) => page % (1 + round) === 0)! });
    }
    reader.close();
  });

  async function mostBytesIn(dir: string, work: Promise<unknown>): Promise<number> {
    let [most, isDone] = [0, false];
    void work.finally(() => (isDone = true)).catch(() => undefined);
    while (!isDone) {
      const packs = readdirSync(dir).filter((file) => file.startsWith('pack-'));
      const sizes = packs.map((file) => statSync(path.join(dir, file), { throwIfNoEntry: false })?.size ?? 0);
      most = Math.max(most, sizes[0]! + (sizes[1] ?? 0));
      await setImmediate();
    }
    return most;
  }

  it('writes an index of at most 16 bytes a page for files that only their owner can read', async () => {
    const dir = temporaryDir();
    const big = new RamLayout([{ name: 'pc.ram', usedBytes: 65536 * PAGE_BYTES }]);
    const writer = CheckpointWriter.create(dir, { layout: big, level: 1 });
    for (let page = 0; page < big.pageCount; page++) {
      writer.data(page, syntheticPage(page % 64), 0);
      if (page % 256 === 0) await writer.ready();
    }
    const { packs } = await writer.finish(manifestParts(), deviceState);
    const indexBytes = packs[0]!.fileBytes - packParts(packs[0]!).recordsOffset;
    expect(indexBytes).toBeLessThanOrEqual(16 * big.pageCount);
    for (const file of coreFiles(dir)) expect(statSync(path.join(dir, file)).mode & 0o777).toBe(0o600);
    expect(JSON.parse(readFileSync(path.join(dir, 'manifest.json'), 'utf8'))).toHaveProperty('manifestXxh3');
  });

  it('refuses a page outside the layout', async () => {
    const writer = CheckpointWriter.create(temporaryDir(), { layout, level: 1 });
    expect(() => writer.data(layout.pageCount, syntheticPage(1), 0)).toThrow(RangeError);
    expect(() => writer.fill(-1, 0)).toThrow(RangeError);
    await writer.abort();
  });
});
