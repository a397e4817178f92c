import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { Hints } from '../../../src/checkpoint/hints.js';
import { VmckptError } from '../../../src/errors.js';
import { xxh3 } from '../../../src/native/index.js';
import { MAX_WORKING_SET_BYTES } from '../../../src/working-set/codec.js';
import { WORKING_SET_FILE, readWorkingSet, updateWorkingSet } from '../../../src/working-set/file.js';
import { planPrefetch } from '../../../src/working-set/plan.js';
import {
  MAX_SCORES,
  learnDirtyPages,
  learnRestore,
  type WorkingSet,
} from '../../../src/working-set/working-set.js';
import {
  RAM_PAGES,
  alignedUnits,
  makeWorkload,
  runWorkload,
  simulateRestore,
} from '../../support/fault-traces.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

const workload = makeWorkload(1, 50);

function oneMore(known: WorkingSet): WorkingSet {
  const plan = planPrefetch({ ...known, units: alignedUnits });
  const trace = simulateRestore(plan, runWorkload(workload, known.restoreCount));
  return learnRestore(known, { trace, units: alignedUnits });
}

function record(dir: string): Promise<string | undefined> {
  return updateWorkingSet(Hints.beside(dir), RAM_PAGES, oneMore);
}

function setVersion(file: string, version: number): Buffer {
  const bytes = readFileSync(file);
  bytes.writeUInt32LE(version, 8);
  bytes.writeBigUInt64LE(xxh3(bytes, 0, 56), 56);
  writeFileSync(file, bytes);
  return bytes;
}

describe('the file working-set', () => {
  it('is not there at first, and then holds what was learned', async () => {
    const dir = temporaryDir();
    const first = readWorkingSet(Hints.beside(dir), RAM_PAGES);
    expect(first).toMatchObject({
      problem: undefined,
      workingSet: { restoreCount: 0, lastTrace: undefined },
    });
    expect(first.workingSet.histogram.entries).toEqual([]);
    for (let restore = 0; restore < MAX_SCORES + 2; restore++) expect(await record(dir)).toBeUndefined();
    const { workingSet, problem } = readWorkingSet(Hints.beside(dir), RAM_PAGES);
    expect(problem).toBeUndefined();
    expect(workingSet).toMatchObject({
      restoreCount: MAX_SCORES + 2,
      exploration: { phase: MAX_SCORES + 2 },
    });
    expect(workingSet.scores.length).toBe(MAX_SCORES);
    expect(workingSet.histogram.memberCount).toBeGreaterThan(40);
    expect(readdirSync(dir)).toEqual([WORKING_SET_FILE]);
    expect(statSync(path.join(dir, WORKING_SET_FILE)).mode & 0o777).toBe(0o600);
  });

  it('begins with the pages that were dirty during the save', async () => {
    const dir = temporaryDir();
    const learn = (known: WorkingSet) => learnDirtyPages(known, { pages: [9, 10, 30], units: alignedUnits });
    expect(await updateWorkingSet(Hints.beside(dir), RAM_PAGES, learn)).toBeUndefined();
    const { histogram } = readWorkingSet(Hints.beside(dir), RAM_PAGES).workingSet;
    expect(histogram.entries.map(({ leader, isMember }) => [leader, isMember])).toEqual([
      [8, true],
      [24, true],
    ]);
  });

  it('loses no restore of many that end together, and counts them as one turn of exploration', async () => {
    const dir = temporaryDir();
    await record(dir);
    const { workingSet } = readWorkingSet(Hints.beside(dir), RAM_PAGES);
    const plan = planPrefetch({ ...workingSet, units: alignedUnits });
    const outcomes = await Promise.all(
      Array.from({ length: 10 }, (_, clone) =>
        updateWorkingSet(Hints.beside(dir), RAM_PAGES, (known) =>
          learnRestore(known, {
            trace: simulateRestore(plan, runWorkload(workload, clone)),
            units: alignedUnits,
          }),
        ),
      ),
    );
    expect(outcomes).toEqual(Array(10).fill(undefined));
    expect(readWorkingSet(Hints.beside(dir), RAM_PAGES).workingSet).toMatchObject({
      restoreCount: 11,
      exploration: { phase: 2 },
    });
  });

  it('goes on over what a crash has left behind', async () => {
    const dir = temporaryDir();
    writeFileSync(path.join(dir, '.working-set.tmp'), 'half of something'.repeat(1000));
    expect(await record(dir)).toBeUndefined();
    expect(readWorkingSet(Hints.beside(dir), RAM_PAGES).workingSet.restoreCount).toBe(1);
  });

  it.each([
    ['cut', (file: string) => truncateSync(file, 100)],
    ['empty', (file: string) => truncateSync(file, 0)],
    ['foreign', (file: string) => writeFileSync(file, 'shopping list\n'.repeat(20))],
    ['huge', (file: string) => truncateSync(file, MAX_WORKING_SET_BYTES + 1)],
    ['of an older version', (file: string) => setVersion(file, 1)],
  ])('is not used when it is %s, and the next restore begins it anew', async (_what, damage) => {
    const dir = temporaryDir();
    await record(dir);
    damage(path.join(dir, WORKING_SET_FILE));
    const { workingSet, problem } = readWorkingSet(Hints.beside(dir), RAM_PAGES);
    expect(problem).toMatch(/^the working set is not used: /);
    expect(workingSet.restoreCount).toBe(0);
    expect(await record(dir)).toBeUndefined();
    expect(readWorkingSet(Hints.beside(dir), RAM_PAGES)).toMatchObject({
      problem: undefined,
      workingSet: { restoreCount: 1 },
    });
  });

  it('is not used for a machine of another size', async () => {
    const dir = temporaryDir();
    await record(dir);
    expect(readWorkingSet(Hints.beside(dir), RAM_PAGES / 2).problem).toContain('expected 131072');
  });

  it('is left alone when a newer vmckpt wrote it', async () => {
    const dir = temporaryDir();
    await record(dir);
    const file = path.join(dir, WORKING_SET_FILE);
    const bytes = setVersion(file, 3);
    const problem = 'it has version 3, this vmckpt reads version 2';
    expect(readWorkingSet(Hints.beside(dir), RAM_PAGES).problem).toBe(
      `the working set is not used: ${problem}`,
    );
    expect(await record(dir)).toBe(`the working set stays as it is: ${problem}`);
    expect(readFileSync(file).equals(bytes)).toBe(true);
  });

  it('is neither waited for when it is a pipe, nor followed when it is a link', async () => {
    const [pipeDir, linkDir, folderDir] = [temporaryDir(), temporaryDir(), temporaryDir()];
    execFileSync('mkfifo', [path.join(pipeDir, WORKING_SET_FILE)]);
    symlinkSync('/etc/passwd', path.join(linkDir, WORKING_SET_FILE));
    mkdirSync(path.join(folderDir, WORKING_SET_FILE));
    for (const dir of [pipeDir, linkDir, folderDir])
      expect(readWorkingSet(Hints.beside(dir), RAM_PAGES).problem).toMatch(/^the working set is not used: /);
    expect(await record(folderDir)).toMatch(/^the working set was not recorded: /);
  });

  it('says in words why nothing could be recorded', async () => {
    expect(await record('/nowhere/at/all')).toMatch(/^the working set was not recorded: .*ENOENT/);
    const dir = temporaryDir();
    const damaged = await updateWorkingSet(Hints.beside(dir), RAM_PAGES, () => {
      throw new VmckptError('INDEX_DAMAGED', 'page-index: chunk 3 is damaged');
    });
    expect(damaged).toBe('the working set was not recorded: page-index: chunk 3 is damaged');
    expect(existsSync(path.join(dir, WORKING_SET_FILE))).toBe(false);
    await expect(
      updateWorkingSet(Hints.beside(dir), RAM_PAGES, () => {
        throw new TypeError('a bug');
      }),
    ).rejects.toThrow('a bug');
  });

  it.skipIf(process.getuid?.() === 0)('says so when the generation may not be written to', async () => {
    const dir = temporaryDir();
    chmodSync(dir, 0o500);
    expect(await record(dir)).toMatch(/EACCES/);
  });
});
