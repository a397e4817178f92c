import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Hints } from '../../../src/checkpoint/hints.js';
import { HOT_PACK_FILE } from '../../../src/checkpoint/format.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { AdaptiveHistogram, FULL_HEAT } from '../../../src/working-set/histogram.js';
import { inheritHotPack, refreshHotPack } from '../../../src/working-set/hot-pack.js';
import { installUnits } from '../../../src/working-set/units.js';
import { manifestParts, syntheticPage, temporaryDir } from '../checkpoint/synthetic.js';
import { ownPack } from '../../support/packs.js';

const PAGES = 640;
const EXTENT_PAGES = 8;

/** @param changed pages that differ from those of `former` */
async function generation(
  former?: string,
  changed: ReadonlySet<number> = new Set(),
): Promise<{ dir: string; reader: CheckpointReader }> {
  const nameDir = former === undefined ? temporaryDir() : path.dirname(former);
  const dir = path.join(nameDir, former === undefined ? '1' : '2');
  mkdirSync(dir);
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: PAGES * PAGE_BYTES }]);
  const chain = { formerDir: former };
  const writer = CheckpointWriter.create(dir, { layout, level: 1, chain });
  for (let page = 0; page < PAGES; page++) {
    await writer.ready();
    writer.data(page, syntheticPage(page, changed.has(page) ? 1 : 0), 0);
  }
  await writer.finish(manifestParts(), Buffer.from('device state'));
  const reader = await CheckpointReader.open(dir);
  onTestFinished(() => reader.close());
  return { dir, reader };
}

/** A set of the units with these pages. */
function setOf(reader: CheckpointReader, pages: readonly number[]) {
  const units = installUnits(reader);
  const entries = pages.map((page) => ({
    leader: units.leaderOf(page),
    bins: [FULL_HEAT / 2, 0, 0] as const,
    isMember: true,
  }));
  return { units, histogram: new AdaptiveHistogram(entries) };
}

const firstPages = (count: number): number[] =>
  Array.from({ length: count }, (_, extent) => extent * EXTENT_PAGES);

function storedBytes(reader: CheckpointReader, dir: string, extent: number): Buffer {
  const { offset, storedBytes } = reader.extentInfo(extent);
  return readFileSync(ownPack(dir)).subarray(offset, offset + storedBytes);
}

describe('refreshHotPack', () => {
  it('stores the extents of the set side by side', async () => {
    const { dir, reader } = await generation();
    const pages = [400, 8, 96];
    expect(await refreshHotPack(Hints.beside(dir), reader, setOf(reader, pages))).toBeUndefined();
    const pack = readFileSync(path.join(dir, HOT_PACK_FILE));
    const extents = pages.map((page) => reader.extentOf(page)).sort((a, b) => a - b);
    const wanted = Buffer.concat(extents.map((extent) => storedBytes(reader, dir, extent)));
    expect(pack.subarray(-wanted.length).equals(wanted)).toBe(true);
    expect(readdirSync(dir).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  it('leaves a pack alone that nearly fits, and replaces one that does not', async () => {
    const { dir, reader } = await generation();
    const inode = (): number => statSync(path.join(dir, HOT_PACK_FILE)).ino;
    await refreshHotPack(Hints.beside(dir), reader, setOf(reader, firstPages(16)));
    const first = inode();
    await refreshHotPack(Hints.beside(dir), reader, setOf(reader, firstPages(17)));
    expect(inode()).toBe(first);
    await refreshHotPack(Hints.beside(dir), reader, setOf(reader, firstPages(24)));
    expect(inode()).not.toBe(first);
  });

  it('makes none of a set that is most of the checkpoint', async () => {
    const { dir, reader } = await generation();
    expect(await refreshHotPack(Hints.beside(dir), reader, setOf(reader, firstPages(60)))).toBeUndefined();
    expect(existsSync(path.join(dir, HOT_PACK_FILE))).toBe(false);
  });

  it('replaces one that is longer than any that is written', async () => {
    const { dir, reader } = await generation();
    const file = path.join(dir, HOT_PACK_FILE);
    await refreshHotPack(Hints.beside(dir), reader, setOf(reader, firstPages(16)));
    const { size } = statSync(file);
    truncateSync(file, 3 * 2 ** 40);
    expect(await refreshHotPack(Hints.beside(dir), reader, setOf(reader, firstPages(16)))).toBeUndefined();
    expect(statSync(file).size).toBe(size);
  });

  it('replaces what is no pack, and says why where it cannot', async () => {
    const { dir, reader } = await generation();
    const file = path.join(dir, HOT_PACK_FILE);
    writeFileSync(file, 'VMCKPThp and then nothing that makes sense, but longer than a header is');
    expect(await refreshHotPack(Hints.beside(dir), reader, setOf(reader, firstPages(4)))).toBeUndefined();
    expect(statSync(file).size).toBeGreaterThan(EXTENT_PAGES * PAGE_BYTES);
    const nowhere = path.join(dir, 'nowhere');
    expect(await refreshHotPack(Hints.beside(nowhere), reader, setOf(reader, firstPages(4)))).toMatch(
      /^the hot pack was not written: /,
    );
  });
});

describe('the hot pack of the generation before', () => {
  const file = (dir: string): string => path.join(dir, HOT_PACK_FILE);
  const pagesOfExtents = (first: number, count: number): ReadonlySet<number> =>
    new Set(Array.from({ length: count * EXTENT_PAGES }, (_, at) => first * EXTENT_PAGES + at));

  async function inheriting(changed: ReadonlySet<number>) {
    const former = await generation();
    await refreshHotPack(former.reader.hints, former.reader, setOf(former.reader, firstPages(16)));
    const next = await generation(former.dir, changed);
    const set = setOf(next.reader, firstPages(16));
    inheritHotPack(former.reader.hints, next.reader, set);
    return { former, next, set };
  }

  it('is shared, and stays while little of it has changed', async () => {
    const { former, next, set } = await inheriting(pagesOfExtents(0, 1));
    const { ino } = statSync(file(former.dir));
    expect(statSync(file(next.dir)).ino).toBe(ino);
    expect(await refreshHotPack(next.reader.hints, next.reader, set)).toBeUndefined();
    expect(statSync(file(next.dir)).ino).toBe(ino);
  });

  it('is replaced for the next one alone when that has learned', async () => {
    const { former, next, set } = await inheriting(pagesOfExtents(0, 6));
    const before = readFileSync(file(former.dir));
    expect(readFileSync(file(next.dir)).equals(before)).toBe(true);
    expect(await refreshHotPack(next.reader.hints, next.reader, set)).toBeUndefined();
    const after = readFileSync(file(next.dir));
    expect(after.equals(before)).toBe(false);
    // Of two packs now.
    expect([after.readBigUInt64LE(32), after.readBigUInt64LE(40)]).toEqual([16n, 2n]);
    expect(readFileSync(file(former.dir)).equals(before)).toBe(true);
  });

  it('is not shared when most of its extents have been stored anew', async () => {
    const { next } = await inheriting(pagesOfExtents(0, 9));
    expect(existsSync(file(next.dir))).toBe(false);
  });

  it('is not shared by a generation with nothing of the one before', async () => {
    const former = await generation();
    await refreshHotPack(former.reader.hints, former.reader, setOf(former.reader, firstPages(16)));
    const full = await generation();
    inheritHotPack(former.reader.hints, full.reader, setOf(full.reader, firstPages(16)));
    expect(existsSync(file(full.dir))).toBe(false);
  });
});
