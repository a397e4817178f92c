/**
 * The types of report.json: every raw sample, and what follows from them. Later versions only add fields.
 * docs/measurement.md defines the figures.
 */
import * as v from 'valibot';
import { MEMORY_PATHS } from '../restore/report.js';
import { finite, integer, natural, record } from '../util/schema.js';

const ms = v.pipe(finite, v.minValue(0));
const bytes = natural;

/** One entry for each answer, in the order in which they came. */
const samplesSchema = v.object({ answeredMs: v.array(ms), latencyMs: v.array(ms) });
export type ClientSamples = v.InferOutput<typeof samplesSchema>;

const perceivedSchema = v.object({
  answerCount: integer,
  firstAnswerMs: v.nullable(ms),
  longestGapMs: ms,
  backMs: v.nullable(ms),
  latencyP50Ms: v.nullable(ms),
  latencyP99Ms: v.nullable(ms),
});

const ofEachClient = <T extends v.GenericSchema>(schema: T) =>
  v.object({ ping: schema, memcached: schema, http: schema });

/** What vmckpt itself reports. Absent for baselines. */
const transferSchema = v.object({
  path: v.picklist(MEMORY_PATHS),
  demandFaults: integer,
  withheldFaults: integer,
  prefetchedPages: integer,
  /** Of predicted pages with data, how many were touched within ten seconds, by another restore that shows it. */
  prediction: v.optional(v.object({ pages: integer, usedPages: integer })),
  transferredBytes: bytes,
  faultUs: v.object({ p50: finite, p90: finite, p99: finite, max: finite }),
  faultPercentilesUs: v.nullable(v.array(finite)),
  vcpuBlockedMs: ms,
  /** The largest resident set of a process that serves the VM. */
  processPeakBytes: bytes,
});

const runSchema = v.object({
  scenario: v.string(),
  cache: v.picklist(['warm', 'cold']),
  /** From 1; 0 for the run that the clients' reference is taken from. */
  round: natural,
  ramMib: integer,
  /** What a restore does before it starts QEMU. */
  orderedToSpawnMs: ms,
  /** QEMU's spawn → its RESUME event. */
  resumeMs: ms,
  /** QEMU's spawn → the last page in place; null where memory stays in a file. */
  completeMs: v.nullable(ms),
  transfer: v.optional(transferSchema),
  /** Read from the disk until the restore was complete: what has come into the page cache. Null when that was warm. */
  storageReadBytes: v.nullable(bytes),
  /** Of the hot pack beside the generation, where there is one. */
  hotPackBytes: v.optional(bytes),
  /** From the order on; so are the times below. */
  observedMs: ms,
  resident: v.array(v.object({ ms: finite, residentBytes: bytes })),
  answers: ofEachClient(samplesSchema),
  perceived: ofEachClient(perceivedSchema),
  /** At the end of the observation. */
  later: v.object({
    hugePageBytes: v.nullable(bytes),
    memoryIntact: v.boolean(),
    verifiedPagesPerS: finite,
  }),
});
export type Run = v.InferOutput<typeof runSchema>;
export type Sampled = Omit<Run, 'perceived'>;

export const spreadSchema = v.object({
  median: finite,
  min: finite,
  max: finite,
  count: integer,
});

/** Fields: src/bench/confidence.ts. */
export const certaintySchema = v.object({
  median: finite,
  low: finite,
  high: finite,
  confidence: finite,
  count: integer,
});

const summarySchema = v.object({
  scenario: v.string(),
  cache: v.picklist(['warm', 'cold']),
  ramMib: integer,
  figures: record(spreadSchema),
});
export type Summary = v.InferOutput<typeof summarySchema>;

const comparisonSchema = v.object({
  scenario: v.string(),
  cache: v.picklist(['warm', 'cold']),
  ramMib: integer,
  figure: v.string(),
  /** This build's figure through the other one's, of each round in which both were measured. */
  ratio: spreadSchema,
  /** Absent with a single round. */
  certainty: v.optional(certaintySchema),
});
export type Comparison = v.InferOutput<typeof comparisonSchema>;

export const environmentSchema = v.object({
  vmckpt: v.string(),
  node: v.string(),
  kernel: v.string(),
  distribution: v.nullable(v.string()),
  cpuModel: v.string(),
  cpuCount: integer,
  memoryBytes: bytes,
  transparentHugePages: v.nullable(v.string()),
  /** The host itself is a VM: first touches of its memory may be slow. */
  isVirtual: v.boolean(),
  qemu: v.string(),
  accelerator: v.string(),
  /** Sequential, of a file that was dropped from the page cache, on the disk that the checkpoints lie on. */
  diskReadBytesPerS: finite,
  /** Of the last minute, when the measurement began and when it ended. */
  loadAtStart: finite,
  loadAtEnd: finite,
  startedAt: v.string(),
});
export type Environment = v.InferOutput<typeof environmentSchema>;

const absenceSchema = v.object({
  scenario: v.string(),
  ramMib: integer,
  /** Null: in both states. */
  cache: v.nullable(v.picklist(['warm', 'cold'])),
  reason: v.string(),
});
export type Absence = v.InferOutput<typeof absenceSchema>;

/** The fault path by itself: nothing else touches the memory, and there is no VM. */
const faultPathSchema = v.object({
  stored: v.picklist(['raw', 'zstd']),
  round: v.pipe(integer, v.gtValue(0)),
  ramMib: integer,
  /** One thread touches one page of each extent, one after the other. */
  idle: v.object({ count: integer, p50Us: finite, p99Us: finite }),
  /** The same for a loop of UFFDIO_COPY with its page at hand: the cost of the system call itself. */
  bareFaultP50Us: finite,
  /** The same beside two threads of the background. */
  loaded: v.object({ count: integer, p99Us: finite }),
  /** All data by one thread of the background. */
  bulkBytesPerS: finite,
  /** The same by a loop of UFFDIO_COPY from a mapping that has been read before; null unless stored raw. */
  bareBytesPerS: v.nullable(finite),
});
export type FaultPathSample = v.InferOutput<typeof faultPathSchema>;

export const resumeReportSchema = v.object({
  kind: v.literal('vmckpt bench resume'),
  version: v.literal(1),
  options: v.object({
    ramMib: v.array(integer),
    rounds: integer,
    seed: integer,
    scenarios: v.array(v.string()),
    observeMs: ms,
  }),
  environment: environmentSchema,
  /** What the clients reach in a guest that was restored eagerly from a warm cache and has settled, in answers per second. */
  references: v.array(v.object({ ramMib: integer, perS: ofEachClient(finite) })),
  ratios: record(finite),
  /** Of the ratios of single rounds; absent in reports of older versions. */
  certainties: v.optional(record(certaintySchema)),
  /** Why a ratio is not there. */
  missing: record(v.string()),
  /** Medians and ranges. */
  summaries: v.array(summarySchema),
  /** Beside another build (--against); absent without one. */
  comparisons: v.optional(v.array(comparisonSchema)),
  /** Scenarios that were to be measured and were not. */
  absences: v.array(absenceSchema),
  runs: v.array(runSchema),
  faultPath: v.array(faultPathSchema),
});
export type ResumeReport = v.InferOutput<typeof resumeReportSchema>;
