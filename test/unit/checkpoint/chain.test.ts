/** Generations that share what has not changed: every one of them has exactly its pages, whatever happens to the others. */
import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
  renameSync,
  truncateSync,
} from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { VerifiedFiles, checkCheckpoint } from '../../../src/checkpoint/check.js';
import type { Level } from '../../../src/checkpoint/extent-codec.js';
import { CHECKSUM_BYTES, PAGE_CHUNKS } from '../../../src/checkpoint/format.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import type { VmckptError } from '../../../src/errors.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { Random, chooseSeed } from '../../support/faults.js';
import { format2Manifest } from '../../support/packs.js';
import {
  changed,
  deviceState,
  expectMemory,
  flip,
  flipHash,
  forgetHashes,
  full,
  layout,
  save,
  type Content,
  type Memory,
  type Put,
  type Save,
} from './chained-saves.js';
import { manifestParts, syntheticPage, temporaryDir } from './synthetic.js';

function packs(dir: string): string[] {
  return readdirSync(dir).filter((file) => file.startsWith('pack-'));
}

describe('a generation after another one', () => {
  it('stores the pages that differ and the parts of the index that changed, and shares the rest by links', async () => {
    const nameDir = temporaryDir();
    const first = await save({ nameDir, number: 1, memory: full });
    expect(first.parent).toBeUndefined();
    const next = changed(full, [1, 2, 3, 4400], 1);
    const second = await save({ nameDir, number: 2, memory: next });
    expect(second).toMatchObject({
      parent: first.id,
      pages: { dataPageCount: first.pages.dataPageCount },
    });
    expect(second.packs.map(({ place, pageCount, chunkCount }) => [place, pageCount, chunkCount])).toEqual([
      [0, first.packs[0]!.pageCount, 3],
      [1, 4, 2],
    ]);
    const { ownBytes, sharedBytes, storedBytes } = second.sizes;
    expect(sharedBytes).toBe(first.packs[0]!.fileBytes);
    expect(storedBytes).toBe(ownBytes + sharedBytes);
    expect(ownBytes).toBeLessThan(200_000);
    expect(statSync(path.join(nameDir, '1', packs(path.join(nameDir, '1'))[0]!)).nlink).toBe(2);
    rmSync(path.join(nameDir, '1'), { recursive: true });
    await expectMemory(path.join(nameDir, '2'), next);
    expect((await checkCheckpoint(path.join(nameDir, '2'))).problems).toEqual([]);
  });

  it('writes no pack if nothing has changed, and takes over no pack that it does not need', async () => {
    const nameDir = temporaryDir();
    await save({ nameDir, number: 1, memory: full });
    const second = await save({ nameDir, number: 2, memory: full });
    expect(second.packs).toHaveLength(1);
    await expectMemory(path.join(nameDir, '2'), full);
    const other = full.map((content) => (content === 0 ? 1 : content));
    const third = await save({ nameDir, number: 3, memory: other });
    expect([third.packs.length, third.parent]).toEqual([1, undefined]);
    await expectMemory(path.join(nameDir, '3'), other);
  });

  it.each<[string, (nameDir: string) => Partial<Save>]>([
    ['that is to be full', () => ({ full: true })],
    ['without the hashes of its pages', (dir) => (forgetHashes(path.join(dir, '1')), {})],
    ['with a damaged table of hashes', (dir) => (flipHash(path.join(dir, '1'), 'hashTableOffset'), {})],
    ['whose parent is damaged', (dir) => (flip(path.join(dir, '1', 'page-chunks'), 4100), {})],
  ])('%s stores everything', async (_title, prepare) => {
    const nameDir = temporaryDir();
    await save({ nameDir, number: 1, memory: full });
    const second = await save({ nameDir, number: 2, memory: full, ...prepare(nameDir) });
    expect([second.packs.length, second.parent]).toEqual([1, undefined]);
    await expectMemory(path.join(nameDir, '2'), full);
    expect((await save({ nameDir, number: 3, memory: full })).parent).toBe(second.id);
  });

  it('stores the pages anew whose hashes are damaged, and no others', async () => {
    const nameDir = temporaryDir();
    const first = await save({ nameDir, number: 1, memory: full });
    flipHash(path.join(nameDir, '1'), 'hashesOffset');
    const { packs: found } = await save({ nameDir, number: 2, memory: full });
    expect(found.map(({ id }) => id)).toEqual([first.packs[0]!.id, expect.any(String)]);
    expect(found[1]!.pageCount).toBe(1024);
    await expectMemory(path.join(nameDir, '2'), full);
    const { problems } = await checkCheckpoint(path.join(nameDir, '1'));
    expect(problems.map(({ code }) => code)).toEqual(['INDEX_DAMAGED']);
  });

  it('shares with the one before when the newest has been removed', async () => {
    const nameDir = temporaryDir();
    const first = await save({ nameDir, number: 1, memory: full });
    await save({ nameDir, number: 2, memory: changed(full, [5], 1) });
    rmSync(path.join(nameDir, '2'), { recursive: true });
    const again = await save({ nameDir, number: 2, memory: changed(full, [6], 1) });
    expect([again.parent, again.packs.length, again.packs[1]?.pageCount]).toEqual([first.id, 2, 1]);
    await expectMemory(path.join(nameDir, '2'), changed(full, [6], 1));
  });

  it.each(['-a', '-r'])('goes on in a copy of the store (cp %s)', async (how) => {
    const nameDir = temporaryDir();
    const next = changed(full, [5, 6], 1);
    await save({ nameDir, number: 1, memory: full });
    const second = await save({ nameDir, number: 2, memory: next });
    const copy = path.join(temporaryDir(), 'web');
    execFileSync('cp', [how, nameDir, copy]);
    const third = await save({ nameDir: copy, number: 3, memory: changed(next, [7], 2) });
    expect([third.parent, third.packs.length]).toEqual([second.id, 3]);
    for (const [number, memory] of [full, next, changed(next, [7], 2)].entries()) {
      const dir = path.join(copy, String(number + 1));
      await expectMemory(dir, memory);
      expect((await checkCheckpoint(dir)).problems).toEqual([]);
    }
  });

  it('copies packs where the file system makes no links', async () => {
    const nameDir = temporaryDir();
    const elsewhere = mkdtempSync('/dev/shm/vmckpt-');
    onTestFinished(() => rmSync(elsewhere, { recursive: true }));
    const first = await save({ nameDir, number: 1, memory: full });
    const dir = path.join(elsewhere, '2');
    const second = await save({ nameDir, number: 2, memory: changed(full, [5], 1), dir });
    expect(second.parent).toBe(first.id);
    for (const pack of packs(dir)) expect(statSync(path.join(dir, pack)).mode & 0o777).toBe(0o600);
    await expectMemory(dir, changed(full, [5], 1));
  });

  it('does not take an older version of a page for that of the base', async () => {
    const nameDir = temporaryDir();
    await save({ nameDir, number: 1, memory: full });
    const pages = Array.from({ length: 600 }, (_, at) => 200 + at).filter((page) => full[page] === 0);
    const memory = changed(full, pages, 2);
    // Stored, then filled, then what it was before; and other orders.
    const before = pages.flatMap((page): Put[] =>
      page % 3 === 0
        ? [
            [page, 2],
            [page, 'f1'],
          ]
        : page % 3 === 1
          ? [
              [page, 0],
              [page, 5],
            ]
          : [
              [page, 'f9'],
              [page, 0],
              [page, 2],
              [page, 'f0'],
            ],
    );
    await save({ nameDir, number: 2, memory, before });
    await expectMemory(path.join(nameDir, '2'), memory);
    await save({ nameDir, number: 3, memory: full, before });
    await expectMemory(path.join(nameDir, '3'), full);
    for (const number of ['2', '3'])
      expect((await checkCheckpoint(path.join(nameDir, number))).problems).toEqual([]);
  });

  it('has exactly its pages, whatever was changed and removed before, at random', async () => {
    const random = new Random(chooseSeed());
    console.log(`VMCKPT_SEED=${random.seed} repeats this`);
    const chance = (share: number) => random.next() < share;
    const below = (count: number) => Math.floor(random.next() * count);
    const nameDir = temporaryDir();
    const memories: Memory[] = [];
    const kept = new Set<number>();
    for (let number = 1; number <= 12; number++) {
      const former = memories.at(-1) ?? full;
      const share = random.pick([0, 0.001, 0.05, 0.5]);
      const memory = former.map((content, page): Content => {
        if (!chance(share)) return content;
        return random.pick<Content>([number, number - 1, 0, 'f0', `f${page % 256}`, undefined]);
      });
      const isInherited = kept.has(number - 1) && chance(0.5);
      // What is absent cannot be put.
      if (isInherited) for (const [page, content] of memory.entries()) memory[page] = content ?? former[page];
      const differing = memory.flatMap((content, page): Put[] =>
        content === former[page] && !chance(0.01) ? [] : [[page, content]],
      );
      const before = Array.from({ length: random.pick([0, 0, 500]) }, (): Put => {
        const page = below(layout.pageCount);
        // What was put before is to be put last.
        if (isInherited && memory[page] !== undefined) differing.push([page, memory[page]]);
        return memory[page] === undefined
          ? [0, memory[0]]
          : [page, random.pick<Content>([0, 1, number, 'f3'])];
      });
      const puts = isInherited ? { puts: differing } : {};
      await save({ nameDir, number, memory, before, level: random.pick<Level>([1, 'none']), ...puts });
      memories.push(memory);
      kept.add(number);
      if (chance(0.3)) {
        const gone = random.pick([...kept].filter((each) => each !== number));
        if (gone !== undefined) rmSync(path.join(nameDir, String(gone)), { recursive: true, force: true });
        if (gone !== undefined) kept.delete(gone);
      }
    }
    for (const number of kept) {
      await expectMemory(path.join(nameDir, String(number)), memories[number - 1]!);
      expect((await checkCheckpoint(path.join(nameDir, String(number)))).problems).toEqual([]);
    }
  });

  it('costs what has changed, and little for memory that has not', { timeout: 60_000 }, async () => {
    const huge = new RamLayout([{ name: 'pc.ram', usedBytes: 64 * 2 ** 30 }]);
    const nameDir = temporaryDir();
    const pages = Array.from({ length: 64 }, (_, at) => at * 250_000 + 7);
    const saveHuge = async (number: number, { version }: { readonly version: number }) => {
      const dir = path.join(nameDir, String(number));
      mkdirSync(dir);
      const formerDir = number === 1 ? undefined : path.join(nameDir, String(number - 1));
      const chain = { formerDir, inherited: formerDir && format2Manifest(formerDir).id };
      const writer = CheckpointWriter.create(dir, { layout: huge, level: 1, chain });
      for (const page of pages) writer.data(page, syntheticPage(page, version), 0);
      const { sizes, packs: found } = await writer.finish(manifestParts(), deviceState);
      return { ownBytes: sizes.ownBytes, packs: found, dir };
    };
    const first = await saveHuge(1, { version: 0 });
    const same = await saveHuge(2, { version: 0 });
    expect(same.packs.map(({ id }) => id)).toEqual([first.packs[0]!.id]);
    expect(same.ownBytes).toBeLessThanOrEqual((100 << 10) + deviceState.length);
    const next = await saveHuge(3, { version: 1 });
    const ofChanges = pages.length * (PAGE_BYTES + PAGE_CHUNKS.chunkBytes);
    expect(next.ownBytes).toBeLessThan(ofChanges + (200 << 10));
    expect((await checkCheckpoint(next.dir)).problems).toEqual([]);
  });

  it('has at most 64 packs, and leaves those that are hardly used', { timeout: 120_000 }, async () => {
    const nameDir = temporaryDir();
    let memory = full;
    let most = 0;
    for (let number = 1; number <= 68; number++) {
      // Each leaves a page behind that stays.
      memory = changed(memory, [number * 50 + 1, number * 50 + 2], number);
      const { packs: found } = await save({ nameDir, number, memory, level: 'none' });
      most = Math.max(most, found.length);
      if (number > 2) rmSync(path.join(nameDir, String(number - 2)), { recursive: true });
    }
    expect(most).toBeLessThanOrEqual(64);
    expect(most).toBeGreaterThan(10);
    await expectMemory(path.join(nameDir, '68'), memory);
    // Half of all memory changes: what is left of the first pack goes into the new one.
    const other = memory.map((content, page) => (typeof content === 'number' && page < 3000 ? 100 : content));
    const { packs: after } = await save({ nameDir, number: 69, memory: other, level: 'none' });
    expect(after.length).toBeLessThan(most);
    await expectMemory(path.join(nameDir, '69'), other);
    expect((await checkCheckpoint(path.join(nameDir, '69'))).problems).toEqual([]);
  });
});

describe('damage to a pack that generations share', () => {
  /** Three generations; the first pack is of all of them, the second of the last two. */
  async function chain(): Promise<{ nameDir: string; dirs: string[]; shared: string; second: string }> {
    const nameDir = temporaryDir();
    await save({ nameDir, number: 1, memory: full });
    const next = changed(full, [1, 2, 3], 1);
    const { packs: found } = await save({ nameDir, number: 2, memory: next });
    await save({ nameDir, number: 3, memory: changed(next, [4000], 1) });
    const [shared, second] = found.map(({ id }) => `pack-${id}`) as [string, string];
    return { nameDir, dirs: ['1', '2', '3'].map((number) => path.join(nameDir, number)), shared, second };
  }

  it('is found once, and named for every generation that has it', async () => {
    const { dirs, shared } = await chain();
    flip(path.join(dirs[1]!, shared), 5000);
    const verified = new VerifiedFiles();
    const found = [];
    for (const dir of dirs) found.push((await checkCheckpoint(dir, { verified })).problems);
    expect(found.map((problems) => problems.map(({ code }) => code))).toEqual([
      ['EXTENT_DAMAGED'],
      ['EXTENT_DAMAGED'],
      ['EXTENT_DAMAGED'],
    ]);
    expect(found[0]![0]!.message).toContain(`"${shared}") is damaged: `);
    expect(found[2]![0]!.message).toMatch(/\/3\/pack-\w+ is damaged: it is that of .*\/1$/);
  });

  it.each<[string, string, (pack: string, other: string) => void]>([
    ['truncated', 'EXTENT_DAMAGED', (pack) => truncateSync(pack, statSync(pack).size - 1)],
    ['missing', 'FILE_MISSING', (pack) => rmSync(pack)],
    ['swapped with another', 'INDEX_DAMAGED', swap],
  ])('is named when the pack is %s', async (_title, code, harm) => {
    const { dirs, shared, second } = await chain();
    const [, , last] = dirs as [string, string, string];
    harm(path.join(last, shared), path.join(last, second));
    // The length is compared first, and may differ when packs are swapped.
    const codes = code === 'INDEX_DAMAGED' ? [code, 'EXTENT_DAMAGED'] : [code];
    await expect(CheckpointReader.open(last)).rejects.toMatchObject({ kind: 'damaged' });
    const { problems } = await checkCheckpoint(last);
    expect(codes).toContain(problems[0]?.code);
    expect(problems[0]?.message).toMatch(/pack-/);
  });

  it.each<[string, (pack: string, other: string) => void]>([
    ['truncated', (pack) => truncateSync(pack, statSync(pack).size - 1)],
    ['missing', (pack) => rmSync(pack)],
    ['swapped with another', swap],
    // Its three chunks of the page index end before their table and that of its one chunk of records.
    ['flipped in its part of the page index', (pack) => flip(pack, -4 * CHECKSUM_BYTES - 100)],
  ])('has the next save store everything, and tell of it: %s', async (_title, harm) => {
    const { nameDir, dirs, shared, second } = await chain();
    harm(path.join(dirs[2]!, shared), path.join(dirs[2]!, second));
    const found: VmckptError[] = [];
    const memory = changed(full, [7], 4);
    const fourth = await save({ nameDir, number: 4, memory, onDamage: (error) => found.push(error) });
    expect([fourth.packs.length, fourth.parent]).toEqual([1, undefined]);
    expect(found).toMatchObject([
      { kind: 'damaged', message: expect.stringMatching(/\/3.*pack-/) as string },
    ]);
    await expectMemory(path.join(nameDir, '4'), memory);
    expect((await checkCheckpoint(path.join(nameDir, '4'))).problems).toEqual([]);
  });

  it('is that of a pack in the place of another of the same length', async () => {
    const [one, other] = [await chain(), await chain()];
    writeFileSync(path.join(one.dirs[0]!, one.shared), readFileSync(path.join(other.dirs[0]!, other.shared)));
    await expect(CheckpointReader.open(one.dirs[2]!)).rejects.toMatchObject({
      code: 'INDEX_DAMAGED',
      message: expect.stringContaining(`${one.shared}: the header is not that of this`) as string,
    });
  });
});

function swap(one: string, other: string): void {
  renameSync(one, `${one}.x`);
  renameSync(other, one);
  renameSync(`${one}.x`, other);
}
