/** report.json: every raw sample, and what was made of them. Fields are only ever added. Definitions: docs/measurement.md. */
import { z } from 'zod';
import { MEMORY_PATHS } from '../restore/report.js';

const ms = z.number().nonnegative();
const bytes = z.number().int().nonnegative();

/** One entry for each answer, in the order of their coming. */
const samplesSchema = z.object({ answeredMs: z.array(ms), latencyMs: z.array(ms) });
export type ClientSamples = z.infer<typeof samplesSchema>;

const perceivedSchema = z.object({
  answerCount: z.number().int(),
  firstAnswerMs: ms.nullable(),
  longestGapMs: ms,
  backMs: ms.nullable(),
  latencyP50Ms: ms.nullable(),
  latencyP99Ms: ms.nullable(),
});

const ofEachClient = <T extends z.ZodType>(schema: T) =>
  z.object({ ping: schema, memcached: schema, http: schema });

/** What vmckpt itself reports; absent for baselines. */
const transferSchema = z.object({
  path: z.enum(MEMORY_PATHS),
  demandFaults: z.number().int(),
  withheldFaults: z.number().int(),
  prefetchedPages: z.number().int(),
  /** Of predicted pages with data, how many were touched within ten seconds, by another restore that shows it. */
  prediction: z.object({ pages: z.number().int(), usedPages: z.number().int() }).optional(),
  transferredBytes: bytes,
  faultUs: z.object({ p50: z.number(), p90: z.number(), p99: z.number(), max: z.number() }),
  vcpuBlockedMs: ms,
  /** The largest resident set of a process that serves the VM. */
  processPeakBytes: bytes,
});

const runSchema = z.object({
  scenario: z.string(),
  cache: z.enum(['warm', 'cold']),
  /** From 1; 0 for the run that the clients' reference is taken from. */
  round: z.number().int().nonnegative(),
  ramMib: z.number().int(),
  /** What a restore does before it starts QEMU. */
  orderedToSpawnMs: ms,
  /** QEMU's spawn → its RESUME event. */
  resumeMs: ms,
  /** QEMU's spawn → the last page in place; null where memory stays in a file. */
  completeMs: ms.nullable(),
  transfer: transferSchema.optional(),
  /** Read from the disk until the restore was complete: what has come into the page cache. Null when that was warm. */
  storageReadBytes: bytes.nullable(),
  /** From the order on; so are the times below. */
  observedMs: ms,
  resident: z.array(z.object({ ms: z.number(), residentBytes: bytes })),
  answers: ofEachClient(samplesSchema),
  perceived: ofEachClient(perceivedSchema),
  /** At the end of the observation. */
  later: z.object({
    hugePageBytes: bytes.nullable(),
    memoryIntact: z.boolean(),
    verifiedPagesPerS: z.number(),
  }),
});
export type Run = z.infer<typeof runSchema>;
export type Sampled = Omit<Run, 'perceived'>;

const spreadSchema = z.object({
  median: z.number(),
  min: z.number(),
  max: z.number(),
  count: z.number().int(),
});

const summarySchema = z.object({
  scenario: z.string(),
  cache: z.enum(['warm', 'cold']),
  ramMib: z.number().int(),
  figures: z.record(z.string(), spreadSchema),
});
export type Summary = z.infer<typeof summarySchema>;

const environmentSchema = z.object({
  vmckpt: z.string(),
  node: z.string(),
  kernel: z.string(),
  distribution: z.string().nullable(),
  cpuModel: z.string(),
  cpuCount: z.number().int(),
  memoryBytes: bytes,
  transparentHugePages: z.string().nullable(),
  /** The host itself is a VM: first touches of its memory may be slow. */
  isVirtual: z.boolean(),
  qemu: z.string(),
  accelerator: z.string(),
  /** Sequential, of a file that was dropped from the page cache, on the disk that the checkpoints lie on. */
  diskReadBytesPerS: z.number(),
  /** Of the last minute, when the measurement began and when it ended. */
  loadAtStart: z.number(),
  loadAtEnd: z.number(),
  startedAt: z.string(),
});
export type Environment = z.infer<typeof environmentSchema>;

const absenceSchema = z.object({
  scenario: z.string(),
  ramMib: z.number().int(),
  /** Null: in both states. */
  cache: z.enum(['warm', 'cold']).nullable(),
  reason: z.string(),
});
export type Absence = z.infer<typeof absenceSchema>;

/** The fault path by itself: nobody else touches memory, and no VM is there. */
const faultPathSchema = z.object({
  stored: z.enum(['raw', 'zstd']),
  round: z.number().int().positive(),
  ramMib: z.number().int(),
  /** One thread touches one page of each extent, one after the other. */
  idle: z.object({ count: z.number().int(), p50Us: z.number(), p99Us: z.number() }),
  /** The same beside two threads of the background. */
  loaded: z.object({ count: z.number().int(), p99Us: z.number() }),
  /** All data by one thread of the background. */
  bulkBytesPerS: z.number(),
  /** The same by a loop of UFFDIO_COPY from a mapping that has been read before; null unless stored raw. */
  bareBytesPerS: z.number().nullable(),
});
export type FaultPathSample = z.infer<typeof faultPathSchema>;

export const resumeReportSchema = z.object({
  kind: z.literal('vmckpt bench resume'),
  version: z.literal(1),
  options: z.object({
    ramMib: z.array(z.number().int()),
    rounds: z.number().int(),
    seed: z.number().int(),
    scenarios: z.array(z.string()),
    observeMs: ms,
  }),
  environment: environmentSchema,
  /** What the clients reach in a guest that was restored eagerly from a warm cache and has settled, in answers per second. */
  references: z.array(z.object({ ramMib: z.number().int(), perS: ofEachClient(z.number()) })),
  ratios: z.record(z.string(), z.number()),
  /** Why a ratio is not there. */
  missing: z.record(z.string(), z.string()),
  /** Medians and ranges. */
  summaries: z.array(summarySchema),
  /** Scenarios that were to be measured and were not. */
  absences: z.array(absenceSchema),
  runs: z.array(runSchema),
  faultPath: z.array(faultPathSchema),
});
export type ResumeReport = z.infer<typeof resumeReportSchema>;
