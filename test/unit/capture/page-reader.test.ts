/** What is read is stored as it is; a read that fails does so by name, and once: what else is under way fails unheard. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { PageReader } from '../../../src/capture/page-reader.js';
import { MAX_READS, STRETCH_PAGES, type PageStore } from '../../../src/checkpoint/stretch.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { manifestParts } from '../checkpoint/synthetic.js';
import { startWritten, type Written } from '../../contracts/write-tracker.js';
import { suiteDirectory } from '../../support/vitest.js';

const SOURCE = path.join(import.meta.dirname, '../../contracts/written-process.c');
/** More than are read at once. */
const PAGES = 2 * MAX_READS * STRETCH_PAGES;

const program = path.join(suiteDirectory(), 'written-process');
beforeAll(() => {
  execFileSync('cc', ['-O1', '-Wall', '-Werror', '-pthread', '-o', program, SOURCE]);
});

/** Of a process that has all of its pages. */
async function startReader() {
  const written = await startWritten(program, 'small');
  await written.does(`write 0 ${PAGES} 1 7`);
  const hostAddress = written.options.regions[0]!.address;
  const reader = new PageReader(written.pid, [{ name: 'ram', usedBytes: PAGES * PAGE_BYTES, hostAddress }]);
  onTestFinished(() => reader.close());
  const dir = mkdtempSync(path.join(path.dirname(program), 'pages-'));
  const store = CheckpointWriter.create(dir, { layout: reader.layout, level: 1 });
  onTestFinished(() => store.abort());
  return { written, reader, store, unheard: unheardRejections() };
}

/** Those that nobody has handled, until the test ends. */
function unheardRejections(): unknown[] {
  const unheard: unknown[] = [];
  const note = (reason: unknown): void => void unheard.push(reason);
  process.on('unhandledRejection', note);
  onTestFinished(() => void process.off('unhandledRejection', note));
  return unheard;
}

function read(reader: PageReader, store: PageStore, onRead = () => undefined) {
  const { signal } = new AbortController();
  return reader.read(reader.allPages, { store, onRead, signal });
}

/** Returns when its memory is gone; it is a zombie until this process has an idle moment. */
function killNow({ pid }: Written): void {
  process.kill(pid, 'SIGKILL');
  while (!/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'latin1')));
}

describe('a process whose memory is read', () => {
  test('has lost it: the capture is refused', async () => {
    const { written, reader, store, unheard } = await startReader();
    // All that is read beside the first stretch fails, too.
    await written.does(`forbid ${STRETCH_PAGES} ${PAGES - STRETCH_PAGES}`);
    await expect(read(reader, store)).rejects.toMatchObject({ code: 'CAPTURE_REFUSED' });
    await expect(reader.keep(reader.allPages)).rejects.toMatchObject({ code: 'CAPTURE_REFUSED' });
    await reader.close();
    expect(unheard).toEqual([]);
  });

  test('has ended: the read says so', async () => {
    const { written, reader, store, unheard } = await startReader();
    let isKilled = false;
    const onRead = (): undefined => {
      if (!isKilled) killNow(written);
      isKilled = true;
    };
    await expect(read(reader, store, onRead)).rejects.toMatchObject({ code: 'QEMU_DIED' });
    await expect(reader.keep(reader.allPages)).rejects.toMatchObject({ code: 'QEMU_DIED' });
    await reader.close();
    expect(unheard).toEqual([]);
  });

  test('is not at fault where the store fails: its error is told', async () => {
    const { written, reader, store, unheard } = await startReader();
    await written.does(`forbid ${STRETCH_PAGES} ${PAGES - STRETCH_PAGES}`);
    const full = new Error('the disk is full');
    const others: Promise<unknown>[] = [];
    const failing = {
      fill: () => undefined,
      read: async (...request: Parameters<PageStore['read']>) => {
        const isFirst = others.push(store.read(...request)) === 1;
        if (!isFirst) return others.at(-1) as Promise<number>;
        await expect.poll(() => others.length).toBe(MAX_READS);
        await Promise.allSettled(others);
        await turn();
        throw full;
      },
    };
    await expect(read(reader, failing as unknown as PageStore)).rejects.toBe(full);
    await reader.close();
    expect(unheard).toEqual([]);
  });
});

/** Reads these pages, all of them first, as the process is told to do something in between. */
async function saveAgain(
  { written, reader }: Awaited<ReturnType<typeof startReader>>,
  nameDir: string,
  meanwhile: readonly (readonly [command: string, first: number, count: number])[] = [],
) {
  const generations = readdirSync(nameDir).filter((name) => /^\d+$/.test(name));
  const [former, dir] = [0, 1].map((more) => path.join(nameDir, `${generations.length + more}`)) as [
    string,
    string,
  ];
  mkdirSync(dir);
  const chain = { formerDir: existsSync(former) ? former : undefined };
  const store = CheckpointWriter.create(dir, { layout: reader.layout, level: 1, chain });
  const { signal } = new AbortController();
  const options = { store, onRead: () => undefined, signal };
  await reader.read(reader.allPages, options);
  for (const [command, first, count] of meanwhile) {
    await written.does(`${command.replace('PAGES', `${first} ${count}`)}`);
    await reader.read(Uint32Array.of(first, count), options);
  }
  const manifest = await store.finish(manifestParts(), Buffer.from('device state'));
  return { dir, manifest };
}

async function memoryIn(dir: string): Promise<Buffer> {
  const generation = await CheckpointReader.open(dir);
  onTestFinished(() => generation.close());
  const memory = Buffer.alloc(generation.layout.ramBytes);
  const extent = new Uint8Array(generation.extentPages * PAGE_BYTES);
  for (let page = 0; page < generation.layout.pageCount; page++) {
    const at = page * PAGE_BYTES;
    if (generation.kindOf(page) !== PAGE_KINDS.data) {
      memory.fill(generation.fillByteOf(page), at, at + PAGE_BYTES);
      continue;
    }
    generation.readExtent(generation.extentOf(page), extent);
    const slot = generation.slotOf(page) * PAGE_BYTES;
    memory.set(extent.subarray(slot, slot + PAGE_BYTES), at);
  }
  return memory;
}

function differing(one: Buffer, other: Buffer): number[] {
  const pages: number[] = [];
  for (let at = 0; at < one.length; at += PAGE_BYTES)
    if (one.compare(other, at, at + PAGE_BYTES, at, at + PAGE_BYTES) !== 0) pages.push(at / PAGE_BYTES);
  return pages;
}

describe('a process that is saved again and again', () => {
  test('is as it was at the end of each save, and only what differs is stored', async () => {
    const started = await startReader();
    const { written } = started;
    const nameDir = mkdtempSync(path.join(path.dirname(program), 'name-'));
    const first = await saveAgain(started, nameDir);
    const firstMemory = written.bytes();
    await written.does('write 100 50 1 9');
    await written.does('discard 300 20');
    const second = await saveAgain(started, nameDir, [
      // As in the generation before, then otherwise, then as before.
      ['write PAGES 1 3', 600, 10],
      ['write PAGES 1 7', 600, 10],
      // Otherwise, and stored, then as before.
      ['write PAGES 1 7', 100, 5],
      ['discard PAGES', 140, 5],
      ['write PAGES 1 7', 310, 5],
    ]);
    const secondMemory = written.bytes();
    const third = await saveAgain(started, nameDir);
    expect(differing(await memoryIn(first.dir), firstMemory)).toEqual([]);
    expect(differing(await memoryIn(second.dir), secondMemory)).toEqual([]);
    expect(differing(await memoryIn(third.dir), secondMemory)).toEqual([]);
    const [shared, own] = second.manifest.packs;
    // How many of its pages are used is told anew by each generation.
    expect({ ...shared, usedPageCount: undefined }).toEqual({
      ...first.manifest.packs[0],
      usedPageCount: undefined,
    });
    expect(own!.pageCount).toBeLessThan(100);
    expect(third.manifest.packs).toEqual(second.manifest.packs);
  });
});
