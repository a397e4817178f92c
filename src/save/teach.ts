/**
 * What a save knows of the working set of the generation that it has written, before anything was restored from it: that
 * of the generation before, if that was of the same machine, and the pages that the guest wrote to meanwhile. The hot
 * pack of the generation before is shared, too.
 */
import { Hints } from '../checkpoint/hints.js';
import type { Manifest } from '../checkpoint/manifest.js';
import { CheckpointReader } from '../checkpoint/reader.js';
import { VmckptError } from '../errors.js';
import { readWorkingSet, updateWorkingSet } from '../working-set/file.js';
import { inheritHotPack } from '../working-set/hot-pack.js';
import { inheritWorkingSet } from '../working-set/inherit.js';
import { writeNextPlan } from '../working-set/next-plan.js';
import { DEFAULT_WISHES } from '../working-set/plan.js';
import { shareHints } from '../working-set/share.js';
import { installUnits, type InstallUnits } from '../working-set/units.js';
import { learnDirtyPages, newWorkingSet, type WorkingSet } from '../working-set/working-set.js';

export interface SaveLesson {
  /** Of the generation that was written; all of it is there. */
  readonly dir: string;
  /** Of the generation before, if there is one. */
  readonly formerDir: string | undefined;
  readonly dirtyPages: readonly number[];
  /** The id of the generation before, if this one is hardly another (routine.ts): it has the same hints. */
  readonly alikeId?: string | undefined;
}

/**
 * @returns why the new generation begins without a working set, as a clause for the user
 * @throws VmckptError when the new generation cannot be read
 */
export async function teachWorkingSet({
  dir,
  formerDir,
  dirtyPages,
  alikeId,
}: SaveLesson): Promise<string | undefined> {
  if (formerDir !== undefined && alikeId !== undefined)
    if (shareHints(Hints.of(formerDir, alikeId), Hints.beside(dir))) return undefined;
  const reader = await CheckpointReader.open(dir);
  try {
    const units = installUnits(reader);
    const former = formerDir && (await inheritFrom(formerDir, { manifest: reader.manifest, units }));
    if (!former && dirtyPages.length === 0) return undefined;
    const lesson = { pages: dirtyPages, units };
    const inherited = former ? former.workingSet : newWorkingSet(units.pageCount);
    const known = { ...learnDirtyPages(inherited, lesson), units };
    const problem = await updateWorkingSet(reader.hints, units.pageCount, () => known);
    if (problem !== undefined) return problem;
    // Without it the next restore makes its plan itself.
    await writeNextPlan(reader.hints, known, DEFAULT_WISHES);
    if (former) inheritHotPack(former.hints, reader, known);
    return undefined;
  } finally {
    reader.close();
  }
}

interface Heir {
  readonly manifest: Manifest;
  readonly units: InstallUnits;
}

interface Inheritance {
  readonly workingSet: WorkingSet;
  /** Of the generation before. */
  readonly hints: Hints;
}

/** Undefined when there is nothing to be had: another machine, nothing learnt yet, or damage. */
async function inheritFrom(formerDir: string, { manifest, units }: Heir): Promise<Inheritance | undefined> {
  try {
    const reader = await CheckpointReader.open(formerDir);
    try {
      if (!isSameMachine(reader.manifest, manifest)) return undefined;
      const { workingSet } = readWorkingSet(reader.hints, units.pageCount);
      if (workingSet.histogram.memberCount === 0) return undefined;
      const former = { workingSet, units: installUnits(reader) };
      return { workingSet: inheritWorkingSet(former, units), hints: reader.hints };
    } finally {
      reader.close();
    }
  } catch (error) {
    if (error instanceof VmckptError) return undefined;
    throw error;
  }
}

/** Its memory then lies where it lay. */
function isSameMachine(a: Manifest, b: Manifest): boolean {
  return a.machine.type === b.machine.type && JSON.stringify(a.ram) === JSON.stringify(b.ram);
}
