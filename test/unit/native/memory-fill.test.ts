import { closeSync, openSync, writeSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { Level } from '../../../src/checkpoint/extent-codec.js';
import { readManifest } from '../../../src/checkpoint/manifest.js';
import { openNativeImage } from '../../../src/checkpoint/native-image.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { MemoryFill, PageTable, type CheckpointImage } from '../../../src/native/index.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { pagesOf } from '../../../src/working-set/runs.js';
import { manifestParts, syntheticPage, temporaryDir } from '../checkpoint/synthetic.js';
import { ownPack } from '../../support/packs.js';
import { memoryOf, stoppedProcess, type Target } from '../../support/stopped-process.js';

const PAGE_COUNT = 16_000;
const layout = new RamLayout([
  { name: 'vga.vram', usedBytes: 100 * PAGE_BYTES },
  { name: 'pc.ram', usedBytes: PAGE_COUNT * PAGE_BYTES },
]);
const block = layout.byName('pc.ram')!;

type Content = 'zero' | { fill: number } | { version: number };

function contentOf(page: number): Content {
  if (page % 7 === 0) return 'zero';
  if (page % 13 === 0) return { fill: 1 + (page % 255) };
  return { version: page % 17 === 0 ? 1 : 0 };
}

/** Every page of both blocks, some of them rewritten later, so that extents are no longer in the order of pages. */
async function writeGeneration(dir: string, level: Level): Promise<void> {
  const writer = CheckpointWriter.create(dir, { layout, level });
  for (const pass of [0, 1])
    for (let page = 0; page < layout.pageCount; page++) {
      const content = contentOf(page);
      if (pass === 1 && !(typeof content === 'object' && 'version' in content && content.version === 1))
        continue;
      if (content === 'zero') writer.fill(page, 0);
      else if ('fill' in content) writer.fill(page, content.fill);
      else writer.data(page, syntheticPage(page, pass), 0);
      await writer.ready();
    }
  await writer.finish(manifestParts(), Buffer.from('device state'));
}

/** What was there before, but for the pages that are written. */
function expectedMemory(before: Buffer, isWritten: (page: number) => boolean): Buffer {
  const bytes = Buffer.from(before);
  for (let index = 0; index < PAGE_COUNT; index++) {
    const page = block.firstPage + index;
    const content = contentOf(page);
    const place = bytes.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES);
    if (content === 'zero' || !isWritten(page)) continue;
    if ('fill' in content) place.fill(content.fill);
    else place.set(syntheticPage(page, content.version));
  }
  return bytes;
}

function isZero(page: number): boolean {
  return contentOf(page) === 'zero';
}

const pages = Array.from({ length: PAGE_COUNT }, (_, index) => block.firstPage + index);

async function generation(level: Level): Promise<{ dir: string; image: CheckpointImage }> {
  const dir = temporaryDir();
  await writeGeneration(dir, level);
  return { dir, image: openNativeImage(dir, readManifest(dir)) };
}

function regionsOf({ address }: Omit<Target, 'pageCount'>) {
  return [{ address, firstPage: block.firstPage, pageCount: PAGE_COUNT }];
}

describe.each([1, 'none'] as const)('MemoryFill, level %s', (level) => {
  test('puts every page of the block where it belongs, and counts them', async () => {
    const { image } = await generation(level);
    const target = await stoppedProcess(PAGE_COUNT);
    const before = memoryOf(target);
    const fill = new MemoryFill({ image, pid: target.pid, regions: regionsOf(target), threads: 3 });
    expect(await fill.run()).toBe(true);
    expect(memoryOf(target).equals(expectedMemory(before, () => true))).toBe(true);
    expect(fill.pageCount).toBe(pages.filter((page) => !isZero(page)).length);
  });

  test('puts listed pages there and no others, and notes them in the table', async () => {
    const { image } = await generation(level);
    const target = await stoppedProcess(PAGE_COUNT);
    const before = memoryOf(target);
    const table = new PageTable(layout.pageCount);
    const order = Uint32Array.of(1200, 100, 211, 3, 1000, 1, 500, 300);
    const isListed = (page: number) =>
      [...order].some((first, at) => at % 2 === 0 && page >= first && page < first + order[at + 1]!);
    const options = { image, pid: target.pid, regions: regionsOf(target), order, table, threads: 2 };
    expect(await new MemoryFill(options).run()).toBe(true);
    expect(memoryOf(target).equals(expectedMemory(before, isListed))).toBe(true);
    const listed = pages.filter(isListed);
    expect([...pagesOf(table.installed())]).toEqual(listed);
    const zeroPages = listed.filter(isZero).length;
    expect(table.counters()).toMatchObject({ prefetchedPages: listed.length - zeroPages, zeroPages });
  });

  test.each(['its budget', 'stop()'])('ends early by %s, and the table says what is there', async (way) => {
    const { image } = await generation(level);
    const target = await stoppedProcess(PAGE_COUNT);
    const before = memoryOf(target);
    const table = new PageTable(layout.pageCount);
    const options = { image, pid: target.pid, regions: regionsOf(target), table, threads: 2 };
    const fill = new MemoryFill(way === 'stop()' ? options : { ...options, budgetMs: 1 });
    const running = fill.run();
    if (way === 'stop()') {
      while (fill.pageCount === 0) await setImmediate();
      fill.stop();
    }
    expect(await running).toBe(false);
    const installed = new Set(pagesOf(table.installed()));
    expect(installed.size).toBe(fill.pageCount);
    expect(installed.size).toBeLessThan(pages.filter((page) => !isZero(page)).length);
    expect(memoryOf(target).equals(expectedMemory(before, (page) => installed.has(page)))).toBe(true);
  });

  test('stops at a damaged extent, and names it', async () => {
    const { dir, image } = await generation(level);
    const fd = openSync(ownPack(dir), 'r+');
    // In several: one alone may hold nothing but pages that were written again later.
    for (let at = 200_000; at < 1_200_000; at += 100_000) writeSync(fd, Buffer.alloc(64, 0x55), 0, 64, at);
    closeSync(fd);
    const target = await stoppedProcess(PAGE_COUNT);
    const fill = new MemoryFill({ image, pid: target.pid, regions: regionsOf(target), threads: 2 });
    await expect(fill.run()).rejects.toMatchObject({
      code: 'EXTENT_DAMAGED',
      message: expect.stringMatching(/^extent \d+ of .* is damaged/) as string,
    });
  });

  test('says why the process cannot be written to', async () => {
    const { image } = await generation(level);
    const target = await stoppedProcess(PAGE_COUNT);
    const fillOf = (pid: number, address: number) =>
      new MemoryFill({ image, pid, regions: regionsOf({ pid, address }), threads: 2 }).run();
    await expect(fillOf(2 ** 22 + 1, target.address)).rejects.toMatchObject({ code: 'ESRCH' });
    await expect(fillOf(target.pid, PAGE_BYTES)).rejects.toMatchObject({
      code: 'EFAULT',
      syscall: 'process_vm_writev',
    });
  });

  test('refuses pages that the checkpoint does not have', async () => {
    const { image } = await generation(level);
    const order = Uint32Array.of(layout.pageCount - 1, 2);
    expect(() => new MemoryFill({ image, pid: 1, regions: [], order, threads: 1 })).toThrow(RangeError);
  });
});
