/** Generations that share what has not changed: every one of them has exactly its pages, whatever happens to the others. */
import {
  existsSync,
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
import { CHECKSUM_BYTES } from '../../../src/checkpoint/format.js';
import { readManifest, type Format2Manifest } from '../../../src/checkpoint/manifest.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import type { VmckptError } from '../../../src/errors.js';
import { PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { Random, chooseSeed } from '../../support/faults.js';
import { manifestParts, syntheticPage, temporaryDir } from './synthetic.js';

const layout = new RamLayout([
  { name: 'pc.ram', usedBytes: 4500 * PAGE_BYTES },
  { name: 'vga.vram', usedBytes: 100 * PAGE_BYTES },
]);
const deviceState = Buffer.from('device state');

/** A version of data; `f` and a byte; or absent. */
type Content = number | `f${number}` | undefined;
type Memory = readonly Content[];
type Put = readonly [page: number, content: Content];

function put(writer: CheckpointWriter, page: number, content: Content): void {
  if (typeof content === 'number') writer.data(page, syntheticPage(page, content), 0);
  else if (content !== undefined) writer.fill(page, Number(content.slice(1)));
}

interface Save {
  readonly nameDir: string;
  readonly number: number;
  readonly memory: Memory;
  /** Put before the memory itself: older versions of pages. */
  readonly before?: readonly Put[];
  readonly level?: Level;
  readonly full?: boolean;
  readonly dir?: string;
  /** All pages but these are what they are in the generation before. */
  readonly puts?: readonly Put[];
  readonly onDamage?: (error: VmckptError) => void;
}

async function save({
  nameDir,
  number,
  memory,
  before = [],
  level = 1,
  full,
  dir,
  puts,
  onDamage = () => undefined,
}: Save): Promise<Format2Manifest> {
  const former = path.join(nameDir, String(number - 1));
  const formerDir = full !== true && existsSync(former) ? former : undefined;
  const into = dir ?? path.join(nameDir, String(number));
  mkdirSync(into);
  const inherited = puts && readManifest(former).id;
  const writer = CheckpointWriter.create(into, {
    layout,
    level,
    chain: { nameDir, formerDir, inherited, onDamage },
  });
  expect(writer.inherits).toBe(puts !== undefined);
  for (const [page, content] of before) {
    put(writer, page, content);
    await writer.ready();
  }
  for (const [index, [page, content]] of [...(puts ?? memory.entries())].entries()) {
    put(writer, page, content);
    if (index % 64 === 0) await writer.ready();
  }
  return writer.finish(manifestParts(), deviceState);
}

async function expectMemory(dir: string, memory: Memory): Promise<void> {
  const reader = await CheckpointReader.open(dir);
  const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
  for (const [page, content] of memory.entries()) {
    const kind = reader.kindOf(page);
    if (typeof content !== 'number') {
      expect([kind === PAGE_KINDS.absent, kind === PAGE_KINDS.data]).toEqual([content === undefined, false]);
      if (content !== undefined) expect(reader.fillByteOf(page)).toBe(Number(content.slice(1)));
      continue;
    }
    expect(kind).toBe(PAGE_KINDS.data);
    reader.readExtent(reader.extentOf(page), into);
    const start = reader.slotOf(page) * PAGE_BYTES;
    if (Buffer.compare(into.subarray(start, start + PAGE_BYTES), syntheticPage(page, content)) !== 0)
      throw new Error(`page ${page} of ${dir} is wrong`);
  }
  reader.close();
}

const full: Memory = Array.from({ length: layout.pageCount }, (_, page): Content =>
  page % 7 === 0 ? 'f0' : page % 13 === 0 ? `f${page % 256}` : 0,
);

function changed(memory: Memory, pages: readonly number[], version: number): Memory {
  const copy = [...memory];
  for (const page of pages) copy[page] = version;
  return copy;
}

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
    ['without the hashes of its pages', (dir) => (rmSync(path.join(dir, 'page-hashes')), {})],
    ['with damaged hashes', (dir) => (flip(path.join(dir, 'page-hashes'), 5000), {})],
    ['with a damaged table of hashes', (dir) => (flip(path.join(dir, 'page-hashes'), -3), {})],
    ['whose parent is damaged', (dir) => (flip(path.join(dir, '1', 'page-chunks'), 4100), {})],
  ])('%s stores everything', async (_title, prepare) => {
    const nameDir = temporaryDir();
    await save({ nameDir, number: 1, memory: full });
    const second = await save({ nameDir, number: 2, memory: full, ...prepare(nameDir) });
    expect([second.packs.length, second.parent]).toEqual([1, undefined]);
    await expectMemory(path.join(nameDir, '2'), full);
    expect((await save({ nameDir, number: 3, memory: full })).parent).toBe(second.id);
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

describe('a generation of which all pages are inherited that are not put', () => {
  const puts = (pages: readonly number[], version: number) => pages.map((page): Put => [page, version]);

  it('stores those that differ, and touches no other part of index and hashes', async () => {
    const nameDir = temporaryDir();
    const first = await save({ nameDir, number: 1, memory: full });
    const memory = [...changed(full, [1, 2], 1)];
    memory[3] = 'f7';
    const second = await save({
      ...{ nameDir, number: 2, memory },
      puts: [...puts([1, 2], 1), [3, 'f7'], [4, full[4]], [5, full[5]]],
    });
    expect(second).toMatchObject({
      parent: first.id,
      pages: { dataPageCount: first.pages.dataPageCount - 1, absentPageCount: 0 },
    });
    expect(second.packs.map(({ pageCount, chunkCount }) => [pageCount, chunkCount])).toEqual([
      [first.packs[0]!.pageCount, 3],
      [2, 1],
    ]);
    await expectMemory(path.join(nameDir, '2'), memory);
    expect((await checkCheckpoint(path.join(nameDir, '2'))).problems).toEqual([]);
    // The hashes are those of all of its pages: nothing is to be stored.
    expect((await save({ nameDir, number: 3, memory })).packs).toHaveLength(2);
    await expectMemory(path.join(nameDir, '3'), memory);
  });

  it('stores pages again whose hashes are damaged, and has their hashes then', async () => {
    const nameDir = temporaryDir();
    await save({ nameDir, number: 1, memory: full });
    flip(path.join(nameDir, 'page-hashes'), 5000);
    const second = await save({ nameDir, number: 2, memory: full, puts: puts([1, 2], 0) });
    expect(second.packs.map(({ pageCount }) => pageCount)).toEqual([expect.any(Number), 2]);
    const third = await save({ nameDir, number: 3, memory: full, puts: puts([1, 2], 0) });
    expect(third.packs).toHaveLength(2);
    await expectMemory(path.join(nameDir, '3'), full);
  });

  it('is none of another generation, nor without hashes', async () => {
    const nameDir = temporaryDir();
    const { id } = await save({ nameDir, number: 1, memory: full });
    await save({ nameDir, number: 2, memory: full });
    const inherits = (number: string, inherited: string): boolean => {
      const chain = { nameDir, formerDir: path.join(nameDir, number), inherited };
      const writer = CheckpointWriter.create(temporaryDir(), { layout, level: 1, chain });
      onTestFinished(() => writer.abort());
      return writer.inherits;
    };
    const { id: newest } = readManifest(path.join(nameDir, '2'));
    expect([inherits('2', newest), inherits('2', id), inherits('1', id)]).toEqual([true, false, false]);
    rmSync(path.join(nameDir, 'page-hashes'));
    expect(inherits('2', newest)).toBe(false);
  });

  it('has at most 64 packs, and no more older versions than a share', { timeout: 120_000 }, async () => {
    const nameDir = temporaryDir();
    let memory = full;
    await save({ nameDir, number: 1, memory: full });
    const counts: number[] = [];
    for (let number = 2; number <= 72; number++) {
      const pages = [number * 50 + 1, number * 50 + 2, 3000, 3001];
      memory = changed(memory, pages, number);
      const { packs: found } = await save({
        nameDir,
        number,
        memory,
        level: 'none',
        puts: puts(pages, number),
      });
      counts.push(found.length);
      if (number > 2) rmSync(path.join(nameDir, String(number - 2)), { recursive: true });
    }
    expect(Math.max(...counts)).toBe(64);
    expect(counts.at(-1)).toBeLessThan(48);
    await expectMemory(path.join(nameDir, '72'), memory);
    const half = full.flatMap((content, page) => (page < 2500 && content === 0 ? [page] : []));
    for (let number = 73; number <= 76; number++) {
      memory = changed(memory, half, number);
      const { pages } = await save({ nameDir, number, memory, level: 'none', puts: puts(half, number) });
      expect(pages.supersededPageCount).toBeLessThan(2 * pages.dataPageCount);
    }
    await expectMemory(path.join(nameDir, '76'), memory);
    expect((await checkCheckpoint(path.join(nameDir, '76'))).problems).toEqual([]);
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

/** @param at from the end, if negative */
function flip(file: string, at: number): void {
  const bytes = readFileSync(file);
  bytes[at < 0 ? bytes.length + at : at]! ^= 1;
  writeFileSync(file, bytes);
}
