/** Generations share packs where the file system makes no hard links, too: by reflinks or, without these, as copies. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, statfsSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { checkCheckpoint } from '../../../src/checkpoint/check.js';
import { BTRFS, EXFAT, mountNew, mountProblem, type FileSystemKind } from '../../support/mounts.js';
import { changed, expectMemory, full, save } from './chained-saves.js';

const next = changed(full, [5, 600], 1);

function mounted(kind: FileSystemKind): string {
  const { dir, unmount } = mountNew(kind);
  onTestFinished(unmount);
  return dir;
}

function usedBytes(dir: string): number {
  execFileSync('sync', ['-f', dir]);
  const { blocks, bfree, bsize } = statfsSync(dir);
  return (blocks - bfree) * bsize;
}

async function expectSound(dir: string): Promise<void> {
  await expectMemory(dir, next);
  expect((await checkCheckpoint(dir)).problems).toEqual([]);
}

/** Runs the test where the file system can be mounted; otherwise the title says why not. */
function on(kind: FileSystemKind, title: string, test: (dir: string) => Promise<void>): void {
  const problem = mountProblem(kind);
  const why = problem === undefined ? '' : ` (skipped: ${problem})`;
  it.skipIf(problem !== undefined)(`on ${kind.name}, ${title}${why}`, () => test(mounted(kind)));
}

describe('a generation', () => {
  on(BTRFS, 'shares what packs take by reflinks', async (dir) => {
    for (const subvolume of ['one', 'two'])
      execFileSync('btrfs', ['-q', 'subvolume', 'create', path.join(dir, subvolume)], { stdio: 'pipe' });
    const [nameDir, elsewhere] = [path.join(dir, 'one'), path.join(dir, 'two/2')];
    const first = await save({ nameDir, number: 1, memory: full, level: 'none' });
    const before = usedBytes(dir);
    const second = await save({ nameDir, number: 2, memory: next, level: 'none', dir: elsewhere });
    expect(second.parent).toBe(first.id);
    expect(usedBytes(dir) - before).toBeLessThan(first.packs[0]!.fileBytes / 4);
    await expectSound(elsewhere);
  });

  on(EXFAT, 'has copies of its own', async (dir) => {
    const nameDir = path.join(dir, 'web');
    mkdirSync(nameDir);
    const first = await save({ nameDir, number: 1, memory: full });
    const second = await save({ nameDir, number: 2, memory: next });
    expect([second.parent, second.packs.length]).toEqual([first.id, 2]);
    expect(existsSync(path.join(nameDir, '2', `pack-${first.packs[0]!.id}`))).toBe(true);
    await expectSound(path.join(nameDir, '2'));
  });
});
