/**
 * The file `prefetch-plan`, a hint: what the next restore installs first. It is worked out when something has been
 * learned, because doing so takes 40 ms for a guest of 1 GiB, too long while a VM waits to run. The plan is tied to its
 * working set and to the options that it was made for; with others, a new plan is made. docs/working-set.md specifies
 * its bytes.
 */
import { errnoOf, writeAt, writeFailure } from '../checkpoint/files.js';
import type { Hints } from '../checkpoint/hints.js';
import { VmckptError } from '../errors.js';
import { decodeFoundation, encodeWorkingSet, tieTo } from './codec.js';
import { seal, unseal, type Opened } from './envelope.js';
import { readWorkingSetFile } from './file.js';
import { planPrefetch, type PrefetchWishes, type PrefetchPlan } from './plan.js';
import { readHint } from './read-file.js';
import { replaceFile } from './replace-file.js';
import type { PageRuns } from './runs.js';
import type { InstallUnits } from './units.js';
import type { Foundation, WorkingSet } from './working-set.js';

export const NEXT_PLAN_FILE = 'prefetch-plan';

const ENVELOPE = { magic: 'VMCKPTpl', version: 1 } as const;
/** In the order of the file. */
const PARTS = ['beforeResume', 'early', 'soon', 'late', 'warm', 'beside', 'likely', 'withheld'] as const;
type Parts = [PageRuns, PageRuns, PageRuns, PageRuns, PageRuns, PageRuns, PageRuns, PageRuns];
/** Offsets in the body. */
const AT = { budgetMs: 0, explore: 8, explorePhase: 16, restMs: 20, lengths: 24 } as const;
const FIXED_BYTES = AT.lengths + 4 * PARTS.length;
/** For 2²⁰ units, each in at most two parts. */
export const MAX_PLAN_BYTES = 32 << 20;
/** A longer delay of a VM's remaining memory makes no sense. */
const MAX_REST_MS = 60_000;

export interface PlannedRestore {
  /** Undefined when there is nothing to predict from. */
  readonly plan: PrefetchPlan | undefined;
  /** Why the working set is not used, as a clause for the user. */
  readonly problem: string | undefined;
}

/** The plan for a restore that starts now. Never throws, except for bugs and for what `units` throws. */
export function planNextRestore(hints: Hints, units: InstallUnits, wishes: PrefetchWishes): PlannedRestore {
  const { pageCount } = units;
  const found = readWorkingSetFile(hints, (bytes): Opened<PrefetchPlan | Foundation> => {
    const tie = tieTo(bytes);
    const ready = tie === undefined ? undefined : readNextPlan(hints, { tie, pageCount, wishes });
    return ready?.status === 'ok' ? ready : decodeFoundation(bytes, pageCount);
  });
  if (found === undefined) return { plan: undefined, problem: undefined };
  if (found.status !== 'ok')
    return { plan: undefined, problem: `the working set is not used: ${found.problem}` };
  if (!('histogram' in found.value)) return { plan: found.value, problem: undefined };
  const isEmpty = found.value.histogram.memberCount === 0;
  return { plan: isEmpty ? undefined : planPrefetch({ ...found.value, units }, wishes), problem: undefined };
}

/** Identifies the plan to read: for which working set, RAM size and options. */
export interface PlanSubject {
  readonly tie: bigint;
  readonly pageCount: number;
  readonly wishes: PrefetchWishes;
}

/** The plan that `writeNextPlan` wrote, if it was for this subject. */
export function readNextPlan(hints: Hints, subject: PlanSubject): Opened<PrefetchPlan> | undefined {
  return readHint(hints.find(NEXT_PLAN_FILE), MAX_PLAN_BYTES, (bytes) => decodePlan(bytes, subject));
}

/**
 * Writes the plan for the restore after this one.
 * @returns why that was not possible, as a clause for the user. Never throws, except for bugs and for what `units`
 *   throws
 */
export async function writeNextPlan(
  hints: Hints,
  known: WorkingSet & { readonly units: InstallUnits },
  wishes: PrefetchWishes,
): Promise<string | undefined> {
  if (known.histogram.memberCount === 0) return undefined;
  const tie = tieTo(encodeWorkingSet(known))!;
  const bytes = encodePlan(planPrefetch(known, wishes), tie, wishes);
  if (bytes.length > MAX_PLAN_BYTES) return undefined;
  try {
    await replaceFile(hints.place(NEXT_PLAN_FILE), (fd) => {
      // Another process may have learned since then, and already written its plan.
      if (tieOf(hints) !== tie) return false;
      writeAt(fd, bytes, 0);
      return true;
    });
    return undefined;
  } catch (error) {
    if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
    return `the next plan was not written: ${writeFailure(error, hints.find(NEXT_PLAN_FILE)).message}`;
  }
}

/** The tie of a plan for the current working set. */
function tieOf(hints: Hints): bigint | undefined {
  const found = readWorkingSetFile(hints, (bytes) => ({ status: 'ok', value: tieTo(bytes) }));
  return found?.status === 'ok' ? found.value : undefined;
}

export function encodePlan(plan: PrefetchPlan, tie: bigint, { budgetMs, explore }: PrefetchWishes): Buffer {
  const parts = partsOf(plan);
  const fixed = Buffer.alloc(FIXED_BYTES);
  fixed.writeDoubleLE(budgetMs, AT.budgetMs);
  fixed.writeDoubleLE(explore, AT.explore);
  fixed.writeUInt32LE(plan.explorePhase, AT.explorePhase);
  fixed.writeUInt32LE(plan.restMs, AT.restMs);
  for (const [part, runs] of parts.entries()) fixed.writeUInt32LE(runs.length, AT.lengths + 4 * part);
  const words = parts.map((runs) => new Uint8Array(runs.buffer, runs.byteOffset, runs.byteLength));
  return seal(ENVELOPE, Buffer.concat([fixed, ...words]), tie);
}

export function decodePlan(bytes: Buffer, { tie, pageCount, wishes }: PlanSubject): Opened<PrefetchPlan> {
  const opened = unseal(ENVELOPE, bytes, tie);
  if (opened.status !== 'ok') return opened;
  const body = opened.value;
  if (body.length < FIXED_BYTES) return damaged('it ends too early');
  const isMeant =
    body.readDoubleLE(AT.budgetMs) === wishes.budgetMs && body.readDoubleLE(AT.explore) === wishes.explore;
  if (!isMeant) return damaged('it is for other wishes');
  const lengths = PARTS.map((_, part) => body.readUInt32LE(AT.lengths + 4 * part));
  const wordCount = lengths.reduce((sum, length) => sum + length, 0);
  if (lengths.some((length) => length % 2 === 1) || body.length !== FIXED_BYTES + 4 * wordCount)
    return damaged('its parts do not fit');
  const words = new Uint32Array(wordCount);
  Buffer.from(words.buffer).set(body.subarray(FIXED_BYTES));
  let next = 0;
  const parts = lengths.map((length) => words.subarray(next, (next += length)));
  const [beforeResume, early, soon, late, warm, beside, likely, withheld] = parts as Parts;
  const isSane = parts.every((runs) => liesWithin(pageCount, runs));
  if (!isSane || ![beforeResume, early, soon, late, beside, withheld].every(isSet))
    return damaged(`its runs are not those of a RAM of ${pageCount} pages`);
  const afterResume = [early, soon, late];
  const [explorePhase, restMs] = [body.readUInt32LE(AT.explorePhase), body.readUInt32LE(AT.restMs)];
  if (restMs > MAX_REST_MS) return damaged(`the rest would wait for ${restMs} ms`);
  const plan = { beforeResume, afterResume, warm, beside, likely, withheld, restMs, explorePhase };
  return { status: 'ok', value: plan };
}

function liesWithin(pageCount: number, runs: PageRuns): boolean {
  for (let at = 0; at < runs.length; at += 2)
    if (runs[at + 1] === 0 || runs[at]! + runs[at + 1]! > pageCount) return false;
  return true;
}

/** Whether the runs are ascending and disjoint. */
function isSet(runs: PageRuns): boolean {
  for (let at = 2; at < runs.length; at += 2) if (runs[at]! <= runs[at - 2]! + runs[at - 1]!) return false;
  return true;
}

function partsOf({ beforeResume, afterResume, warm, beside, likely, withheld }: PrefetchPlan): PageRuns[] {
  return [beforeResume, ...afterResume, warm, beside, likely, withheld];
}

function damaged(problem: string): Opened<never> {
  return { status: 'damaged', problem };
}
