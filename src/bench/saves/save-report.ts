/**
 * The types of report.json of `vmckpt bench save`. Later versions only add fields. docs/measurement.md defines the
 * figures.
 */
import * as v from 'valibot';
import { finite, integer, natural, record } from '../../util/schema.js';
import { certaintySchema, environmentSchema, spreadSchema } from '../resume-report.js';
import { LOAD_NAMES } from './scenarios.js';

const captureSchema = v.object({
  /** Since the observation began. */
  startedMs: finite,
  totalMs: finite,
  pauseMs: finite,
  storedBytes: natural,
});
export type Capture = v.InferOutput<typeof captureSchema>;

const runSchema = v.object({
  scenario: v.string(),
  load: v.picklist(LOAD_NAMES),
  ramMib: integer,
  /** From 1. */
  round: natural,
  /** By name: src/bench/saves/figures.ts. */
  figures: record(finite),
  /** The captures of a series beside clients. */
  captures: v.optional(v.array(captureSchema)),
  /** How many gets were answered in each second of the observation. */
  getsEachS: v.optional(v.array(natural)),
});
export type SaveRun = v.InferOutput<typeof runSchema>;

const summarySchema = v.object({
  scenario: v.string(),
  load: v.picklist(LOAD_NAMES),
  ramMib: integer,
  figures: record(spreadSchema),
});
export type SaveSummary = v.InferOutput<typeof summarySchema>;

const absenceSchema = v.object({
  scenario: v.string(),
  load: v.picklist(LOAD_NAMES),
  ramMib: integer,
  reason: v.string(),
});
export type SaveAbsence = v.InferOutput<typeof absenceSchema>;

export const saveReportSchema = v.object({
  kind: v.literal('vmckpt bench save'),
  version: v.literal(1),
  options: v.object({
    ramMib: v.array(integer),
    rounds: integer,
    seed: integer,
    loads: v.array(v.picklist(LOAD_NAMES)),
    /** The number of saves in a chain. */
    saves: integer,
    /** How long captures are taken beside clients. */
    captureS: finite,
  }),
  /** `diskWriteBytesPerS`: sequential, until it is fsynced. */
  environment: v.object({ ...environmentSchema.entries, diskWriteBytesPerS: finite }),
  ratios: record(finite),
  /** How sure the medians of the ratios of all rounds are. */
  certainties: record(certaintySchema),
  /** The reason why a ratio is absent. */
  missing: record(v.string()),
  /** Medians and ranges. */
  summaries: v.array(summarySchema),
  absences: v.array(absenceSchema),
  runs: v.array(runSchema),
});
export type SaveBenchReport = v.InferOutput<typeof saveReportSchema>;
