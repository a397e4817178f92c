import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { readManifest } from '../../../src/checkpoint/manifest.js';
import { findRawMemory, mainMemoryOf, requireRawMemory } from '../../../src/checkpoint/raw-memory.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout, type RamBlock } from '../../../src/pages/layout.js';
import { checkRawMemory, writeRawMemory } from '../../../src/transfer/raw-memory.js';
import { manifestParts, syntheticPage, temporaryDir } from '../checkpoint/synthetic.js';
import { ownPack } from '../../support/packs.js';

const PAGES = 4096;
const BIOS: RamBlock = { name: 'pc.bios', usedBytes: 8 * PAGE_BYTES };
const MAIN: RamBlock = { name: 'pc.ram', usedBytes: PAGES * PAGE_BYTES };
const FIRST = BIOS.usedBytes / PAGE_BYTES;

/** Main memory behind another block; expected is what its raw memory is to hold. */
async function generation(parts: Parameters<typeof manifestParts>[0] = {}) {
  const dir = path.join(temporaryDir(), 'web', '1');
  fs.mkdirSync(dir, { recursive: true });
  const expected = Buffer.alloc(MAIN.usedBytes);
  const writer = CheckpointWriter.create(dir, { layout: new RamLayout([BIOS, MAIN]), level: 1 });
  await writer.ready();
  writer.data(0, syntheticPage(7), 0);
  for (let page = 0; page < PAGES; page++) {
    if (page % 64 === 0) await writer.ready();
    const at = page * PAGE_BYTES;
    if (page % 5 === 0) writer.fill(FIRST + page, 0);
    else if (page === 1) {
      writer.fill(FIRST + page, 0xa5);
      expected.fill(0xa5, at, at + PAGE_BYTES);
    } else if (page < 1000 || page > 3000) {
      writer.data(FIRST + page, syntheticPage(page), 0);
      expected.set(syntheticPage(page), at);
    }
  }
  // Out of order, as a background snapshot sends what the guest writes to.
  for (const page of [3, 700, 4001]) {
    writer.data(FIRST + page, syntheticPage(page, 1), 0);
    expected.set(syntheticPage(page, 1), page * PAGE_BYTES);
  }
  const manifest = await writer.finish(manifestParts(parts), Buffer.from('device state'));
  return { dir, expected, manifest, file: path.join(dir, 'raw-memory') };
}

function overwrite(file: string, offset: number, bytes: string): void {
  const fd = fs.openSync(file, 'r+');
  fs.writeSync(fd, bytes, offset);
  fs.closeSync(fd);
}

/** What may be written without a trace in the file's times, as a disk's own errors are. */
function overwriteSecretly(dir: string, offset: number, bytes: string): void {
  const file = path.join(dir, 'raw-memory');
  overwrite(file, offset, bytes);
  const { mtimeNs, ctimeNs } = fs.statSync(file, { bigint: true });
  const noteFile = path.join(dir, 'raw-memory.json');
  const note = JSON.parse(fs.readFileSync(noteFile, 'utf8')) as { file: object };
  const times = { mtimeNs: `${mtimeNs}`, ctimeNs: `${ctimeNs}` };
  fs.writeFileSync(noteFile, JSON.stringify({ ...note, file: { ...note.file, ...times } }));
}

describe('the raw memory file', () => {
  it('holds main memory byte for byte, with holes for what is zero', async () => {
    const { dir, expected, file } = await generation();
    const before = fs.readdirSync(dir);
    const raw = await writeRawMemory(dir);
    expect(raw).toMatchObject({ file, block: 'pc.ram', sizeBytes: MAIN.usedBytes });
    expect(fs.readFileSync(file).equals(expected)).toBe(true);
    expect(raw.storedBytes).toBeLessThan(MAIN.usedBytes * 0.6);
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
    expect(fs.readdirSync(dir).sort()).toEqual([...before, 'raw-memory', 'raw-memory.json'].sort());
    await checkRawMemory(dir);
  });

  it('is found as it was made, and not without its note', async () => {
    const { dir, manifest } = await generation();
    expect(findRawMemory(dir, manifest)).toBeUndefined();
    expect(() => requireRawMemory(dir, manifest)).toThrow(expect.objectContaining({ code: 'NO_RAW_MEMORY' }));
    const raw = await writeRawMemory(dir);
    expect(findRawMemory(dir, manifest)).toEqual(raw);
    fs.renameSync(path.join(path.dirname(dir), '1'), path.join(path.dirname(dir), '2'));
    const moved = path.join(path.dirname(dir), '2');
    expect(findRawMemory(moved, readManifest(moved))).toMatchObject({ sizeBytes: raw.sizeBytes });
    fs.rmSync(path.join(moved, 'raw-memory.json'));
    expect(findRawMemory(moved, manifest)).toBeUndefined();
  });

  it.each([
    ['written to', (file: string) => overwrite(file, 5000, 'x'), 'written to'],
    ['cut short', (file: string) => fs.truncateSync(file, 100), '100 bytes'],
    ['replaced by a copy', (file: string) => replaceByCopy(file), 'another file'],
    ['touched', (file: string) => fs.chmodSync(file, 0o644), 'touched'],
    ['deleted', (file: string) => fs.rmSync(file), 'gone'],
    ['replaced by a folder', (file: string) => (fs.rmSync(file), fs.mkdirSync(file)), 'is a folder'],
  ])('is refused when it was %s, and made again', async (_title, change, reason) => {
    const { dir, manifest, file, expected } = await generation();
    await writeRawMemory(dir);
    change(file);
    expect(() => findRawMemory(dir, manifest)).toThrow(
      expect.objectContaining({
        code: 'RAW_MEMORY_CHANGED',
        message: expect.stringContaining(reason) as string,
        hint: 'Make it again: vmckpt materialize web@1',
      }),
    );
    if (fs.existsSync(file) && fs.statSync(file).isDirectory()) return;
    await writeRawMemory(dir);
    expect(fs.readFileSync(file).equals(expected)).toBe(true);
  });

  it('of another generation is not taken for its own', async () => {
    const { dir, manifest } = await generation();
    await writeRawMemory(dir);
    const checksums = { ...manifest.checksums, pageIndexRoot: '0'.repeat(16) };
    expect(() => findRawMemory(dir, { ...manifest, checksums })).toThrow('another generation');
  });

  it.each([
    ['a byte of a data page', 700 * PAGE_BYTES + 9],
    ['a byte of a hole', 2000 * PAGE_BYTES + 1],
    ['a zero page between data', 3005 * PAGE_BYTES],
    ['a page of one repeated byte', PAGE_BYTES + 4095],
    ['the last byte', PAGES * PAGE_BYTES - 1],
  ])('is compared with the checkpoint: %s', async (_title, offset) => {
    const { dir } = await generation();
    await writeRawMemory(dir);
    overwriteSecretly(dir, offset, '!');
    const page = offset - (offset % PAGE_BYTES);
    const found = await checkRawMemory(dir).catch((error: unknown) => error as Error);
    expect(found).toMatchObject({ code: 'RAW_MEMORY_CHANGED' });
    const named = Number(/offset (\d+)$/.exec((found as Error).message)![1]);
    expect([page, offset]).toContain(named);
  });

  it('is not made from a damaged checkpoint, and nothing is left', async () => {
    const { dir } = await generation();
    overwrite(ownPack(dir), 50_000, 'damage');
    const before = fs.readdirSync(dir);
    await expect(writeRawMemory(dir)).rejects.toMatchObject({ code: 'EXTENT_DAMAGED' });
    expect(fs.readdirSync(dir)).toEqual(before);
  });

  it('is not kept when its making is interrupted; the one before it is', async () => {
    const { dir, manifest } = await generation();
    const raw = await writeRawMemory(dir);
    const giveUp = new AbortController();
    const making = writeRawMemory(dir, {
      signal: giveUp.signal,
      onProgress: () => giveUp.abort(new Error('enough')),
    });
    await expect(making).rejects.toThrow('enough');
    expect(findRawMemory(dir, manifest)).toEqual(raw);
    expect(fs.readdirSync(dir)).not.toContain('.raw-memory.tmp');
  });

  it('takes over what a process that died has left', async () => {
    const { dir, expected, file } = await generation();
    fs.writeFileSync(path.join(dir, '.raw-memory.tmp'), 'half of it');
    fs.writeFileSync(path.join(dir, '.raw-memory.json.tmp'), '{');
    await writeRawMemory(dir);
    expect(fs.readFileSync(file).equals(expected)).toBe(true);
    expect(fs.readdirSync(dir).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  it.each([
    ['in several pieces', [backend('a'), backend('b')], 'several pieces (a, b)'],
    ['shared', [{ ...backend('pc.ram'), share: true }], 'shared'],
    ['not there', [backend('other')], 'no RAM block "other"'],
  ])('cannot stand for memory that is %s', async (_title, memoryBackends, reason) => {
    const { dir, manifest } = await generation({ memoryBackends });
    expect(() => mainMemoryOf(manifest)).toThrow(reason);
    await expect(writeRawMemory(dir)).rejects.toMatchObject({ code: 'MAP_REFUSED' });
  });

  it('of a machine that QEMU tells nothing about is that of its default block', async () => {
    const { dir } = await generation({ memoryBackends: [] });
    expect(await writeRawMemory(dir)).toMatchObject({ block: 'pc.ram' });
  });
});

function backend(id: string) {
  return { id, sizeBytes: MAIN.usedBytes, share: false };
}

function replaceByCopy(file: string): void {
  fs.copyFileSync(file, `${file}.copy`);
  const { atime, mtime } = fs.statSync(file);
  fs.utimesSync(`${file}.copy`, atime, mtime);
  fs.renameSync(`${file}.copy`, file);
}
