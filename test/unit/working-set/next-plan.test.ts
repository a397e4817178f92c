import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { Hints } from '../../../src/checkpoint/hints.js';
import { encodeWorkingSet, tieTo } from '../../../src/working-set/codec.js';
import { readWorkingSet, updateWorkingSet, WORKING_SET_FILE } from '../../../src/working-set/file.js';
import {
  encodePlan,
  NEXT_PLAN_FILE,
  planNextRestore,
  writeNextPlan,
} from '../../../src/working-set/next-plan.js';
import { DEFAULT_WISHES, planPrefetch, type PrefetchPlan } from '../../../src/working-set/plan.js';
import { learnDirtyPages, newWorkingSet, type WorkingSet } from '../../../src/working-set/working-set.js';
import { alignedUnits, NO_PLAN, RAM_PAGES } from '../../support/fault-traces.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

/** A folder where it is known that these pages are touched. */
async function folderThatKnows(pages: readonly number[]): Promise<{ dir: string; known: WorkingSet }> {
  const dir = temporaryDir();
  await updateWorkingSet(Hints.beside(dir), RAM_PAGES, (former) =>
    learnDirtyPages(former, { pages, units: alignedUnits }),
  );
  return { dir, known: readWorkingSet(Hints.beside(dir), RAM_PAGES).workingSet };
}

/** No planner would make it of what is known: whoever gets it has read the file. */
const MARKED: PrefetchPlan = { ...NO_PLAN, afterResume: [NO_PLAN.warm, Uint32Array.of(7, 2), NO_PLAN.warm] };

function leave(dir: string, known: WorkingSet, wishes = DEFAULT_WISHES): void {
  writeFileSync(path.join(dir, NEXT_PLAN_FILE), encodePlan(MARKED, tieTo(encodeWorkingSet(known))!, wishes));
}

const planned = (dir: string, wishes = DEFAULT_WISHES) =>
  planNextRestore(Hints.beside(dir), alignedUnits, wishes);

describe('the plan for the next restore', () => {
  it('is taken from the file that was written when something was learned', async () => {
    const { dir, known } = await folderThatKnows([9, 80]);
    const made = planPrefetch({ ...known, units: alignedUnits }, DEFAULT_WISHES);
    expect(
      await writeNextPlan(Hints.beside(dir), { ...known, units: alignedUnits }, DEFAULT_WISHES),
    ).toBeUndefined();
    expect(planned(dir)).toEqual({ plan: made, problem: undefined });
    leave(dir, known);
    expect(planned(dir)).toEqual({ plan: MARKED, problem: undefined });
  });

  it('is made anew for other wishes, after something else was learned, and when the file is damaged or missing', async () => {
    const { dir, known } = await folderThatKnows([9, 80]);
    const anew = (wishes = DEFAULT_WISHES) => ({
      plan: planPrefetch({ ...known, units: alignedUnits }, wishes),
      problem: undefined,
    });
    expect(planned(dir)).toEqual(anew());
    leave(dir, known);
    const others = { budgetMs: 5, explore: 0 };
    expect(planned(dir, others)).toEqual(anew(others));
    leave(dir, { ...known, restoreCount: known.restoreCount + 1 });
    expect(planned(dir)).toEqual(anew());
    leave(dir, known);
    const bytes = readFileSync(path.join(dir, NEXT_PLAN_FILE));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(path.join(dir, NEXT_PLAN_FILE), bytes);
    expect(planned(dir)).toEqual(anew());
  });

  it('is not written while there is nothing to predict, which would let the rest wait for nothing', async () => {
    const dir = temporaryDir();
    const known = { ...newWorkingSet(RAM_PAGES), restoreCount: 3 };
    expect(
      await writeNextPlan(Hints.beside(dir), { ...known, units: alignedUnits }, DEFAULT_WISHES),
    ).toBeUndefined();
    expect(readdirSync(dir)).toEqual([]);
  });

  it('is none where nothing is known, and where what is known is damaged, whatever the file says', async () => {
    expect(planned(temporaryDir())).toEqual({ plan: undefined, problem: undefined });
    const { dir, known } = await folderThatKnows([9]);
    leave(dir, known);
    const file = path.join(dir, WORKING_SET_FILE);
    const bytes = readFileSync(file);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(file, bytes);
    expect(planned(dir)).toMatchObject({
      plan: undefined,
      problem: expect.stringContaining('not used') as string,
    });
  });
});
