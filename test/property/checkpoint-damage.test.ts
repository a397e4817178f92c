/**
 * Damage anywhere in a generation gives an error of ours or changes nothing; a page is never wrong. With valid
 * checksums (a hostile writer has them) it may be anything but a crash.
 */
import fc from 'fast-check';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkCheckpoint } from '../../src/checkpoint/check.js';
import { GENERATION_FILES, packParts } from '../../src/checkpoint/format.js';
import { encodeManifest } from '../../src/checkpoint/manifest.js';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../src/checkpoint/writer.js';
import { VmckptError } from '../../src/errors.js';
import { PAGE_KINDS } from '../../src/pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../../src/pages/layout.js';
import { manifestParts, syntheticPage, temporaryDir } from '../unit/checkpoint/synthetic.js';
import { coreFiles, format2Manifest, ownPack } from '../support/packs.js';
import { pageEntryOffset, putInOnePlace, reseal } from '../unit/checkpoint/tampering.js';

/** More than one index chunk. */
const layout = new RamLayout([
  { name: 'pc.ram', usedBytes: 8100 * PAGE_BYTES },
  { name: 'vga.vram', usedBytes: 200 * PAGE_BYTES },
]);
const dataPages = [
  ...Array.from({ length: 70 }, (_, index) => index * 3),
  ...Array.from({ length: 9 }, (_, i) => 8190 + i),
];
const deviceState = Buffer.from('device state '.repeat(20));
const expectedCodes = [
  'MANIFEST_DAMAGED',
  'INDEX_DAMAGED',
  'EXTENT_DAMAGED',
  'DEVICE_STATE_DAMAGED',
  'FILE_MISSING',
];

async function writeGeneration(dir: string): Promise<void> {
  const writer = CheckpointWriter.create(dir, { layout, level: 1 });
  for (const page of dataPages) writer.data(page, syntheticPage(page), 0);
  for (let page = 300; page < 400; page++) writer.fill(page, page % 3);
  await writer.finish(manifestParts(), deviceState);
}

/** Reads everything there is; every page that can be read is compared. Returns the errors. */
async function readAll(dir: string): Promise<VmckptError[]> {
  const errors: VmckptError[] = [];
  const attempt = async <T>(step: () => T | Promise<T>): Promise<T | undefined> => {
    try {
      return await step();
    } catch (error) {
      if (!(error instanceof VmckptError)) throw error;
      errors.push(error);
      return undefined;
    }
  };
  const reader = await attempt(() => CheckpointReader.open(dir));
  if (reader === undefined) return errors;
  const state = await attempt(() => reader.deviceState());
  if (state !== undefined) expect(state.equals(deviceState)).toBe(true);
  const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
  for (const page of dataPages)
    await attempt(() => {
      expect(reader.kindOf(page)).toBe(PAGE_KINDS.data);
      reader.readExtent(reader.extentOf(page), into);
      const start = reader.slotOf(page) * PAGE_BYTES;
      expect(Buffer.compare(into.subarray(start, start + PAGE_BYTES), syntheticPage(page))).toBe(0);
    });
  for (let page = 300; page < 400; page++)
    await attempt(() => {
      expect(reader.kindOf(page)).toBe(page % 3 === 0 ? PAGE_KINDS.zero : PAGE_KINDS.fill);
      expect(reader.fillByteOf(page)).toBe(page % 3);
    });
  reader.close();
  return errors;
}

type Damage =
  | { readonly type: 'flip'; readonly bit: number }
  | { readonly type: 'cut' }
  | { readonly type: 'zero'; readonly length: number }
  | { readonly type: 'insert'; readonly length: number }
  | { readonly type: 'remove'; readonly length: number };

const damage: fc.Arbitrary<Damage> = fc.oneof(
  { arbitrary: fc.record({ type: fc.constant('flip' as const), bit: fc.nat(7) }), weight: 5 },
  { arbitrary: fc.record({ type: fc.constant('cut' as const) }), weight: 1 },
  {
    arbitrary: fc.record({
      type: fc.constantFrom('zero' as const, 'insert' as const, 'remove' as const),
      length: fc.integer({ min: 1, max: 5000 }),
    }),
    weight: 2,
  },
);

/** `place` is a share of the file, in 2^30ths. */
function damaged(bytes: Buffer, kind: Damage, place: number): Buffer {
  const at = Math.floor((place / 2 ** 30) * bytes.length);
  const copy = Buffer.from(bytes);
  if (kind.type === 'cut') return copy.subarray(0, at);
  if (kind.type === 'insert')
    return Buffer.concat([copy.subarray(0, at), Buffer.alloc(kind.length, 7), copy.subarray(at)]);
  if (kind.type === 'remove') return Buffer.concat([copy.subarray(0, at), copy.subarray(at + kind.length)]);
  if (kind.type === 'zero') return copy.fill(0, at, Math.min(at + kind.length, copy.length));
  copy[at]! ^= 1 << kind.bit;
  return copy;
}

describe('a damaged generation', () => {
  it('gives an error or the very same pages, 1000 times', { timeout: 300_000 }, async () => {
    const dir = temporaryDir();
    await writeGeneration(dir);
    const files = coreFiles(dir);
    const originals = new Map(files.map((file) => [file, readFileSync(path.join(dir, file))]));
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...files), damage, fc.nat(2 ** 30 - 1), async (file, kind, place) => {
        const original = originals.get(file)!;
        const bytes = damaged(original, kind, place);
        writeFileSync(path.join(dir, file), bytes);
        const errors = await readAll(dir);
        for (const { code } of errors) expect(expectedCodes).toContain(code);
        writeFileSync(path.join(dir, file), original);
      }),
      { numRuns: 1000 },
    );
    expect(await readAll(dir)).toEqual([]);
  });

  it('never passes a check, wherever the damage is', { timeout: 300_000 }, async () => {
    const dir = temporaryDir();
    await writeGeneration(dir);
    expect((await checkCheckpoint(dir)).problems).toEqual([]);
    const files = coreFiles(dir);
    const originals = new Map(files.map((file) => [file, readFileSync(path.join(dir, file))]));
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...files), damage, fc.nat(2 ** 30 - 1), async (file, kind, place) => {
        const original = originals.get(file)!;
        const bytes = damaged(original, kind, place);
        fc.pre(!bytes.equals(original));
        writeFileSync(path.join(dir, file), bytes);
        const { problemCount, problems } = await checkCheckpoint(dir);
        expect(problemCount).toBeGreaterThan(0);
        for (const { code } of problems) expect(expectedCodes).toContain(code);
        writeFileSync(path.join(dir, file), original);
      }),
      { numRuns: 150 },
    );
  });
});

it('does not pass a check with a flipped bit in the padding of a table', async () => {
  const dir = temporaryDir();
  await writeGeneration(dir);
  const bytes = readFileSync(ownPack(dir));
  bytes[packParts(format2Manifest(dir).packs[0]!).hashesOffset - 1]! ^= 1;
  writeFileSync(ownPack(dir), bytes);
  const { problems } = await checkCheckpoint(dir);
  expect(problems.map(({ code }) => code)).toEqual(['INDEX_DAMAGED']);
});

describe('a hostile generation with checksums that fit', () => {
  it('gives errors or pages of its own, and nothing else, 1000 times', { timeout: 300_000 }, async () => {
    const dir = temporaryDir();
    await writeGeneration(dir);
    const originals = new Map(coreFiles(dir).map((file) => [file, readFileSync(path.join(dir, file))]));
    const pack = ownPack(dir);
    const starts = {
      pages: pageEntryOffset(dir, 0),
      records: packParts(format2Manifest(dir).packs[0]!).recordsOffset,
    };
    const hostile = fc.record({
      index: fc.constantFrom('pages', 'records'),
      word: fc.nat(400),
      value: fc.oneof(
        fc.nat(0xffff_ffff),
        fc.nat(300),
        fc.constantFrom(0, 0xffff_ffff, 0x8000_0000, 4096, 32768, 0x108, 8, 0x203),
      ),
    });
    await fc.assert(
      fc.asyncProperty(hostile, async ({ index, word, value }) => {
        const bytes = Buffer.from(originals.get(path.basename(pack))!);
        bytes.writeUInt32LE(value, starts[index] + word * 4);
        writeFileSync(pack, bytes);
        reseal(dir);
        try {
          const reader = await CheckpointReader.open(dir);
          const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
          for (let page = 0; page < 250; page++) {
            if (reader.kindOf(page) !== PAGE_KINDS.data) continue;
            const pageCount = reader.readExtent(reader.extentOf(page), into);
            expect(reader.slotOf(page)).toBeLessThan(pageCount);
          }
          reader.close();
        } catch (error) {
          expect(error).toBeInstanceOf(VmckptError);
          expect(expectedCodes).toContain((error as VmckptError).code);
        }
        for (const [name, content] of originals) writeFileSync(path.join(dir, name), content);
      }),
      { numRuns: 1000 },
    );
  });

  it('cannot put two pages in the same place', async () => {
    const dir = temporaryDir();
    await writeGeneration(dir);
    const [one, other] = dataPages as [number, number];
    putInOnePlace(dir, one, other);
    const { problems } = await checkCheckpoint(dir);
    expect(problems.map(({ message }) => message)).toContainEqual(
      expect.stringContaining(`page ${other} lies in the place of another one`),
    );
  });

  it('cannot make a manifest name more than there is', async () => {
    const dir = temporaryDir();
    await writeGeneration(dir);
    const manifest = format2Manifest(dir);
    const [pack] = manifest.packs;
    const file = path.join(dir, GENERATION_FILES.manifest);
    const tamperedManifests = [
      { ...manifest, ram: { ...manifest.ram, blocks: [{ name: 'pc.ram', usedBytes: 2 ** 43 }] } },
      { ...manifest, ram: { ...manifest.ram, blocks: [{ name: 'pc.ram', usedBytes: 2 ** 52 }] } },
      { ...manifest, pages: { ...manifest.pages, extentCount: 0xffff_ffff } },
      { ...manifest, pages: { ...manifest.pages, fileBytes: 2 ** 50 } },
      { ...manifest, packs: [{ ...pack!, extentCount: 1 << 24 }] },
      { ...manifest, packs: [{ ...pack!, chunkCount: 1 << 20 }] },
      { ...manifest, packs: [{ ...pack!, id: '0'.repeat(32) }] },
      { ...manifest, packs: [{ ...pack!, place: 7 }] },
      { ...manifest, packs: [] },
      { ...manifest, sizes: { ...manifest.sizes, deviceStateBytes: 1 << 28 } },
    ];
    for (const tampered of tamperedManifests) {
      writeFileSync(file, encodeManifest(tampered));
      const codes = (await readAll(dir)).map(({ code }) => code);
      expect(codes.length).toBeGreaterThan(0);
      for (const code of codes) expect(expectedCodes).toContain(code);
    }
    truncateSync(file, 0);
    expect((await readAll(dir)).map(({ code }) => code)).toEqual(['MANIFEST_DAMAGED']);
  });
});
