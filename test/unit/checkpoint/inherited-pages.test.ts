/** Generations of which only those pages are put that were written: the others are taken over unread. */
import { rmSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { checkCheckpoint } from '../../../src/checkpoint/check.js';
import { readManifest } from '../../../src/checkpoint/manifest.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import {
  changed,
  expectMemory,
  flipHash,
  forgetHashes,
  full,
  layout,
  save,
  type Put,
} from './chained-saves.js';
import { temporaryDir } from './synthetic.js';

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
    flipHash(path.join(nameDir, '1'), 'hashesOffset');
    const second = await save({ nameDir, number: 2, memory: full, puts: puts([1, 2], 0) });
    expect(second.packs.map(({ pageCount }) => pageCount)).toEqual([expect.any(Number), 2]);
    const third = await save({ nameDir, number: 3, memory: full, puts: puts([1, 2], 0) });
    expect(third.packs).toHaveLength(2);
    await expectMemory(path.join(nameDir, '3'), full);
  });

  it('is none of another generation, and needs no hashes', async () => {
    const nameDir = temporaryDir();
    const { id } = await save({ nameDir, number: 1, memory: full });
    await save({ nameDir, number: 2, memory: full });
    const inherits = (number: string, inherited: string): boolean => {
      const chain = { formerDir: path.join(nameDir, number), inherited };
      const writer = CheckpointWriter.create(temporaryDir(), { layout, level: 1, chain });
      onTestFinished(() => writer.abort());
      return writer.inherits;
    };
    const { id: newest } = readManifest(path.join(nameDir, '2'));
    expect([inherits('2', newest), inherits('2', id), inherits('1', id)]).toEqual([true, false, true]);
    forgetHashes(path.join(nameDir, '2'));
    expect(inherits('2', newest)).toBe(true);
    const again = await save({ nameDir, number: 3, memory: full, puts: puts([1, 2], 0) });
    expect(again.packs.map(({ pageCount }) => pageCount)).toEqual([expect.any(Number), 2]);
    await expectMemory(path.join(nameDir, '3'), full);
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
