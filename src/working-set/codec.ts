/**
 * The bytes of a trace (a file of its own, for recorded traces) and of a working set (which ends with its last trace).
 * docs/working-set.md specifies them. Checksums only detect damage, so every number is checked as well: what is decoded
 * could have been encoded. Decoding never throws, because a prediction is not worth a failed restore.
 */
import { xxh3 } from '../native/index.js';
import { ByteReader, ByteWriter, MalformedBytes } from './bytes.js';
import { seal, unseal, type Opened } from './envelope.js';
import { TOUCH_CLASSES } from './evidence.js';
import { AdaptiveHistogram, FULL_HEAT, MAX_HISTOGRAM_UNITS, type HeatEntry } from './histogram.js';
import type { PageRuns } from './runs.js';
import { SCORE_BASES, type RestoreScore, type ScoreBasis } from './score.js';
import { MAX_TRACE_FAULTS, MAX_TRACE_RUNS, type RestoreTrace } from './trace.js';
import { MAX_SCORES, type Foundation, type WorkingSet } from './working-set.js';

const TRACE_ENVELOPE = { magic: 'VMCKPTtr', version: 1 } as const;
const WORKING_SET_ENVELOPE = { magic: 'VMCKPTws', version: 2 } as const;

/** More than the other bounds add up to: 2²⁰ units of 14 bytes, 2²⁰ faults of 10, 2 × 2¹⁸ runs of 10. */
export const MAX_WORKING_SET_BYTES = 32 << 20;

const MAX_U32 = 0xffff_ffff;
const MAX_NUMBER = Number.MAX_SAFE_INTEGER;

export function encodeTrace(trace: RestoreTrace): Buffer {
  const out = new ByteWriter();
  writeTrace(out, trace);
  return seal(TRACE_ENVELOPE, out.finish());
}

export function decodeTrace(bytes: Buffer): Opened<RestoreTrace> {
  return parsed(unseal(TRACE_ENVELOPE, bytes), (body) => {
    const trace = readTrace(body);
    body.end();
    return trace;
  });
}

export function encodeWorkingSet(workingSet: WorkingSet): Buffer {
  const out = new ByteWriter();
  const { pageCount, histogram, touched, exploration, restoreCount, scores, lastTrace } = workingSet;
  for (const value of [pageCount, exploration.seed, exploration.phase, restoreCount]) out.number(value);
  writeHistogram(out, histogram);
  writeRuns(out, touched);
  out.number(scores.length);
  for (const score of scores) writeScore(out, score);
  out.number(lastTrace === undefined ? 0 : 1);
  if (lastTrace !== undefined) writeTrace(out, lastTrace);
  return seal(WORKING_SET_ENVELOPE, out.finish());
}

/** A working set for another size of RAM counts as damaged: its pages would mean others. */
export function decodeWorkingSet(bytes: Buffer, pageCount: number): Opened<WorkingSet> {
  return parsed(unseal(WORKING_SET_ENVELOPE, bytes), (body) => {
    const foundation = readFoundation(body, pageCount);
    const scoreCount = body.number('the number of scores', MAX_SCORES);
    const scores = Array.from({ length: scoreCount }, () => readScore(body));
    const hasTrace = body.number('the mark of a trace', 1) === 1;
    const lastTrace = hasTrace ? readTrace(body, pageCount) : undefined;
    body.end();
    return { ...foundation, scores, lastTrace };
  });
}

/** Decodes only what a plan is made from, to save time; the checksum covers the rest. */
export function decodeFoundation(bytes: Buffer, pageCount: number): Opened<Foundation> {
  return parsed(unseal(WORKING_SET_ENVELOPE, bytes), (body) => readFoundation(body, pageCount));
}

/** The checksum of an encoded working set, if it is intact. Files made from a working set are tied to it by that. */
export function tieTo(bytes: Buffer): bigint | undefined {
  const body = unseal(WORKING_SET_ENVELOPE, bytes);
  return body.status === 'ok' ? xxh3(body.value) : undefined;
}

function parsed<T>(body: Opened<Buffer>, parse: (body: ByteReader) => T): Opened<T> {
  if (body.status !== 'ok') return body;
  try {
    return { status: 'ok', value: parse(new ByteReader(body.value)) };
  } catch (error) {
    if (!(error instanceof MalformedBytes)) throw error;
    return { status: 'damaged', problem: error.message };
  }
}

function readFoundation(body: ByteReader, pageCount: number): Foundation {
  requirePageCount(body, pageCount);
  const seed = body.number('the seed', MAX_U32);
  const phase = body.number('the phase', MAX_U32);
  const restoreCount = body.number('the number of restores', MAX_NUMBER);
  const histogram = readHistogram(body, pageCount);
  const touched = readRuns(body, pageCount);
  return { pageCount, histogram, touched, exploration: { seed, phase }, restoreCount };
}

function requirePageCount(body: ByteReader, expected: number): void {
  const found = body.number('the number of pages', MAX_U32);
  if (found !== expected) throw new MalformedBytes(`it is for a RAM of ${found} pages, expected ${expected}`);
}

function writeTrace(out: ByteWriter, trace: RestoreTrace): void {
  const { pageCount, resumedAtMs, generation, explorePhase, cutFaultCount, isComplete, isExact } = trace;
  for (const value of [pageCount, resumedAtMs, generation, explorePhase, cutFaultCount]) out.number(value);
  out.number(Number(isComplete) + 2 * Number(isExact));
  out.u64(trace.runId);
  out.number(trace.faultPages.length);
  let next = 0;
  for (const [i, page] of trace.faultPages.entries()) {
    out.number(page - next);
    out.number(trace.faultTimesUs[i]!);
    next = page + 1;
  }
  writeRuns(out, trace.prefetched);
  writeRuns(out, trace.withheld);
}

function readTrace(body: ByteReader, expectedPageCount?: number): RestoreTrace {
  if (expectedPageCount !== undefined) requirePageCount(body, expectedPageCount);
  const pageCount = expectedPageCount ?? body.number('the number of pages', MAX_U32);
  const resumedAtMs = body.number('the time of the resume', MAX_NUMBER);
  const generation = body.number('the generation', MAX_NUMBER);
  const explorePhase = body.number('the phase of the trace', MAX_U32);
  const cutFaultCount = body.number('the number of cut faults', MAX_NUMBER);
  const marks = body.number('the marks of a trace', 3);
  const runId = body.u64('the run');
  const faultCount = body.number('the number of faults', MAX_TRACE_FAULTS);
  const faultPages = new Uint32Array(faultCount);
  const faultTimesUs = new Uint32Array(faultCount);
  for (let i = 0, next = 0; i < faultCount; i++) {
    const page = next + body.number('the distance to a fault', pageCount - 1 - next);
    faultPages[i] = page;
    faultTimesUs[i] = body.number('the time of a fault', MAX_U32);
    next = page + 1;
  }
  return {
    resumedAtMs,
    runId,
    generation,
    pageCount,
    faultPages,
    faultTimesUs,
    cutFaultCount,
    prefetched: readRuns(body, pageCount),
    withheld: readRuns(body, pageCount),
    explorePhase,
    isComplete: marks % 2 === 1,
    isExact: marks >= 2,
  };
}

/** Writes a set's runs: for each, the distance from the end of the previous one, and its length minus one. */
function writeRuns(out: ByteWriter, runs: PageRuns): void {
  out.number(runs.length / 2);
  for (let at = 0, next = 0; at < runs.length; at += 2) {
    out.number(runs[at]! - next);
    out.number(runs[at + 1]! - 1);
    next = runs[at]! + runs[at + 1]!;
  }
}

function readRuns(body: ByteReader, totalPages: number): PageRuns {
  const runs = new Uint32Array(2 * body.number('the number of runs', MAX_TRACE_RUNS));
  for (let at = 0, next = 0; at < runs.length; at += 2) {
    const firstPage = next + body.number('the distance to a run', totalPages - 1 - next);
    const pageCount = 1 + body.number('the length of a run', totalPages - 1 - firstPage);
    runs.set([firstPage, pageCount], at);
    next = firstPage + pageCount;
  }
  return runs;
}

function writeHistogram(out: ByteWriter, { entries }: AdaptiveHistogram): void {
  out.number(entries.length);
  let next = 0;
  for (const { leader, bins, isMember } of entries) {
    out.number(leader - next);
    // Membership shares a number with the first bin, which makes most entries two bytes shorter.
    out.number(bins[TOUCH_CLASSES.early] * 2 + Number(isMember));
    out.number(bins[TOUCH_CLASSES.soon]);
    out.number(bins[TOUCH_CLASSES.late]);
    next = leader + 1;
  }
}

function readHistogram(body: ByteReader, pageCount: number): AdaptiveHistogram {
  const entries: HeatEntry[] = [];
  const unitCount = body.number('the number of units', MAX_HISTOGRAM_UNITS);
  for (let next = 0; entries.length < unitCount;) {
    const leader = next + body.number('the distance to a unit', pageCount - 1 - next);
    const first = body.number('the heat of a unit', FULL_HEAT * 2 + 1);
    const early = Math.floor(first / 2);
    const soon = body.number('the heat of a unit', FULL_HEAT - early);
    const late = body.number('the heat of a unit', FULL_HEAT - early - soon);
    entries.push({ leader, bins: [early, soon, late], isMember: first % 2 === 1 });
    next = leader + 1;
  }
  return new AdaptiveHistogram(entries);
}

function writeScore(out: ByteWriter, score: RestoreScore): void {
  out.number(score.resumedAtMs);
  out.number(score.prefetchedPages);
  out.number(score.withheldPages);
  out.number(score.withheldUnits);
  out.number(score.withheldFaults);
  out.number(score.missFaults);
  out.number(score.lateFaults);
  out.number(SCORE_BASES[score.basis]);
  out.double(score.precision ?? Number.NaN);
  out.double(score.recall ?? Number.NaN);
  // 0 means unknown.
  out.number(score.wastedBytes === undefined ? 0 : score.wastedBytes + 1);
}

function readScore(body: ByteReader): RestoreScore {
  const number = (): number => body.number('a number of a score', MAX_NUMBER);
  // Evaluated in the order of writeScore().
  const score = {
    resumedAtMs: number(),
    prefetchedPages: number(),
    withheldPages: number(),
    withheldUnits: number(),
    withheldFaults: number(),
    missFaults: number(),
    lateFaults: number(),
    basis: readBasis(body),
    precision: readShare(body),
    recall: readShare(body),
  };
  const waste = number();
  return { ...score, wastedBytes: waste === 0 ? undefined : waste - 1 };
}

function readBasis(body: ByteReader): ScoreBasis {
  const code = body.number('the basis of a score', SCORE_BASES.touched);
  return (Object.keys(SCORE_BASES) as ScoreBasis[]).find((basis) => SCORE_BASES[basis] === code)!;
}

function readShare(body: ByteReader): number | undefined {
  const share = body.double("a score's share");
  if (Number.isNaN(share)) return undefined;
  if (share < 0 || share > 1) throw new MalformedBytes(`a score's share is ${share}, expected 0 to 1`);
  return share;
}
