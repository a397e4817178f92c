import { readFileSync, statSync, truncateSync, writeFileSync, existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Hints } from '../../../src/checkpoint/hints.js';
import { HOT_PACK_FILE } from '../../../src/checkpoint/format.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { AdaptiveHistogram, FULL_HEAT } from '../../../src/working-set/histogram.js';
import { refreshHotPack } from '../../../src/working-set/hot-pack.js';
import { installUnits } from '../../../src/working-set/units.js';
import { manifestParts, syntheticPage, temporaryDir } from '../checkpoint/synthetic.js';
import { ownPack } from '../../support/packs.js';

const PAGES = 640;
const EXTENT_PAGES = 8;

async function generation(): Promise<{ dir: string; reader: CheckpointReader }> {
  const dir = temporaryDir();
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: PAGES * PAGE_BYTES }]);
  const writer = CheckpointWriter.create(dir, { layout, level: 1 });
  for (let page = 0; page < PAGES; page++) {
    await writer.ready();
    writer.data(page, syntheticPage(page), 0);
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
