import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { DecodePool } from '../../../src/checkpoint/decode-pool.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { fillMemory } from '../../../src/transfer/memory-fill.js';
import { manifestParts, syntheticPage, temporaryDir } from '../checkpoint/synthetic.js';

const PAGE_COUNT = 1500;
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
async function writeGeneration(dir: string): Promise<void> {
  const writer = CheckpointWriter.create(dir, { layout, level: 1 });
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

interface Target {
  readonly pid: number;
  readonly address: number;
}

const MARKER = 'the memory of a VM';
/** The allocator's header may come before it. */
const MARKER_WITHIN_BYTES = 64;

/** A process that holds still, with zeroed memory for all pages. */
async function stoppedProcess(): Promise<Target> {
  const source = `globalThis.memory = Buffer.alloc(${PAGE_COUNT * PAGE_BYTES});
    memory.write('${MARKER}'); console.log('ready'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  return { pid: child.pid!, address: findMarker(child.pid!) };
}

function findMarker(pid: number): number {
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  const found = Buffer.alloc(MARKER_WITHIN_BYTES);
  for (const line of readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n')) {
    const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) rw-p/.exec(line) ?? [];
    if (start === undefined || end === undefined) continue;
    const endAddress = Number.parseInt(end, 16) - PAGE_COUNT * PAGE_BYTES;
    for (let address = Number.parseInt(start, 16); address < endAddress; address += PAGE_BYTES) {
      readSync(fd, found, 0, found.length, address);
      if (!found.includes(MARKER)) continue;
      closeSync(fd);
      return address;
    }
  }
  throw new Error('the memory was not found');
}

function memoryOf({ pid, address }: Target): Buffer {
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  const bytes = Buffer.alloc(PAGE_COUNT * PAGE_BYTES);
  readSync(fd, bytes, 0, bytes.length, address);
  closeSync(fd);
  return bytes;
}

function expectedMemory(): Buffer {
  const bytes = Buffer.alloc(PAGE_COUNT * PAGE_BYTES);
  for (let index = 0; index < PAGE_COUNT; index++) {
    const page = block.firstPage + index;
    const content = contentOf(page);
    const place = bytes.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES);
    if (content === 'zero') continue;
    if ('fill' in content) place.fill(content.fill);
    else place.set(syntheticPage(page, content.version));
  }
  return bytes;
}

async function opened(dir: string) {
  const source = await CheckpointReader.open(dir);
  const decoder = new DecodePool(source);
  onTestFinished(async () => {
    await decoder.close();
    source.close();
  });
  return { source, decoder };
}

describe('fillMemory', () => {
  test('puts every page of the block where it belongs, and counts them', async () => {
    const dir = temporaryDir();
    await writeGeneration(dir);
    const target = await stoppedProcess();
    let filledPages = 0;
    await fillMemory({
      ...(await opened(dir)),
      block,
      pid: target.pid,
      hostAddress: target.address,
      onFilled: (pageCount) => (filledPages += pageCount),
    });
    expect(memoryOf(target).equals(expectedMemory())).toBe(true);
    const zeroPages = Array.from({ length: PAGE_COUNT }, (_, index) => contentOf(block.firstPage + index));
    expect(filledPages).toBe(zeroPages.filter((content) => content !== 'zero').length);
  });

  test('stops at a damaged extent, and names it', async () => {
    const dir = temporaryDir();
    await writeGeneration(dir);
    const fd = openSync(path.join(dir, 'pages'), 'r+');
    writeSync(fd, Buffer.alloc(64, 0x55), 0, 64, 1_000_000);
    closeSync(fd);
    const target = await stoppedProcess();
    const fill = { ...(await opened(dir)), block, pid: target.pid, hostAddress: target.address };
    await expect(fillMemory({ ...fill, onFilled: () => undefined })).rejects.toMatchObject({
      code: 'EXTENT_DAMAGED',
    });
  });

  test('passes on why the process cannot be written to', async () => {
    const dir = temporaryDir();
    await writeGeneration(dir);
    const fill = { ...(await opened(dir)), block, pid: 2 ** 22 + 1, hostAddress: 4096 };
    await expect(fillMemory({ ...fill, onFilled: () => undefined })).rejects.toMatchObject({ code: 'ESRCH' });
  });
});
