/** What a manifest holds (docs/format.md), by format version. Unknown fields are ignored, because fields are only ever added. */
import * as v from 'valibot';
import { MAX_EXTENT_PAGES } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { diskFilesSchema } from '../util/disk-files.js';
import { processContextSchema } from '../util/process-schema.js';
import { integer, natural, record, text as anyText } from '../util/schema.js';
import { CHECKSUM_ALGORITHM, MAX_PACKS, NUMBERS_PER_PLACE, PLACE_COUNT } from './format.js';

export const MAX_DEVICE_STATE_BYTES = 256 << 20;
const MAX_LIST = 65536;
const MAX_TEXT = 128 * 1024;
const MAX_DESCRIPTION = 8 << 20;

const text = v.pipe(anyText, v.maxLength(MAX_TEXT));
const count = v.pipe(natural, v.maxValue(0xffff_ffff));
/** 128 bits, written in hexadecimal digits. */
const identity = v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/));
const checksum = v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/));

/** Level 0 would mean "the library's default", which may change. */
const levelSchema = v.union([v.pipe(integer, v.minValue(1), v.maxValue(19)), v.literal('none')]);

const identification = {
  name: text,
  generation: v.pipe(integer, v.gtValue(0)),
  /** Random, made when the generation is written. Manifests of earlier versions have none (see decodeManifest). */
  id: v.optional(identity),
};

const saved = {
  created: v.pipe(v.string(), v.check(isTimestamp, 'Invalid timestamp: Expected ISO 8601, UTC')),
  vmckptVersion: text,
  /** How it was saved. */
  mode: v.picklist(['capture', 'background-snapshot', 'stopped', 'precopy', 'import']),
  /** What the VM did when it was saved, and so what it does after a restore. */
  runState: v.picklist(['running', 'paused']),
  /** QEMU's own name of its state (RunState), where it says more than `runState`: `suspended`, `io-error`, … */
  vmState: v.optional(text),
  qemu: v.object({
    version: text,
    /** Only a name: the binary to run is the host's choice. */
    binaryName: text,
    /** The process that was saved, to find out whether it still runs. */
    process: v.optional(v.object({ pid: count, startTicks: natural })),
  }),
  /** As resolved by QEMU: `pc-q35-7.2`, never an alias. */
  machine: v.object({
    type: text,
    cpuModel: v.optional(text),
    /** What the guest sees: CPUID leaf and register → its bits. */
    cpuFeatures: v.optional(record(count)),
    accelerator: v.optional(text),
    cpuCount: v.optional(count),
    /** How many devices it has of each type, whatever has made them. */
    deviceTypes: v.optional(record(count)),
  }),
  ram: v.object({
    pageBytes: v.literal(PAGE_BYTES),
    blocks: v.pipe(v.array(v.object({ name: text, usedBytes: natural })), v.maxLength(4096)),
  }),
  migration: v.object({
    /** The stream's configuration section, verbatim; base64. Longer texts are too much for the regular expression. */
    configuration: v.config(v.pipe(text, v.base64()), { abortPipeEarly: true }),
    ramSectionId: count,
    /** QEMU's own JSON description of the device state, when the stream had one. */
    description: v.optional(v.pipe(anyText, v.maxLength(MAX_DESCRIPTION))),
  }),
  /** QEMU's arguments without the binary; empty when unknown. */
  commandLine: v.pipe(v.array(text), v.maxLength(MAX_LIST)),
  /** What relative paths of the command line start from. */
  workingDirectory: v.optional(text),
  /** What QEMU was as a process: the names in its command line mean what they mean there. */
  process: v.optional(processContextSchema),
  /** How the VM differed from what its command line makes: a restore needs another one. */
  changedParts: v.optional(v.pipe(v.array(text), v.maxLength(MAX_LIST))),
  /** What a restore would refuse, as the save knew it. */
  restoreProblems: v.optional(
    v.pipe(v.array(v.object({ code: text, message: text })), v.maxLength(MAX_LIST)),
  ),
  devices: v.pipe(v.array(v.object({ qomPath: text, type: text })), v.maxLength(MAX_LIST)),
  blockDevices: v.pipe(
    v.array(
      v.object({
        node: text,
        file: v.optional(text),
        format: text,
        readOnly: v.boolean(),
        sizeBytes: v.optional(natural),
      }),
    ),
    v.maxLength(MAX_LIST),
  ),
  /** The files that the VM wrote to, as they were at the instant of the save: a restore compares them. */
  diskFiles: v.optional(diskFilesSchema),
  memoryBackends: v.pipe(
    v.array(v.object({ id: text, sizeBytes: natural, share: v.boolean() })),
    v.maxLength(MAX_LIST),
  ),
  /** What QEMU's monitors can change while it runs, as it was; compared after a restore. */
  settings: v.optional(
    v.pipe(
      v.array(
        v.object({
          /** `throttle`, `object`, … (src/qemu/drift/settings.ts) */
          kind: text,
          id: text,
          name: text,
          /** JSON. */
          value: text,
          /** The command line does not give it: it is set before the VM runs. */
          replay: v.optional(v.boolean()),
          /** `lost` says how a restore has it otherwise; it stands for all settings of its id. */
          lost: v.optional(v.boolean()),
        }),
      ),
      v.maxLength(MAX_LIST),
    ),
  ),
  /** What a restore does not bring back, a sentence without its end for each. */
  lost: v.optional(v.pipe(v.array(text), v.maxLength(MAX_LIST))),
};

const sizes = {
  ramBytes: natural,
  /** RAM in pages that are not zero. */
  nonZeroBytes: natural,
  /** All files of the generation but the manifest. */
  storedBytes: natural,
  deviceStateBytes: v.pipe(natural, v.maxValue(MAX_DEVICE_STATE_BYTES)),
};

const pages = v.object({
  /** Most pages in an extent. */
  extentPages: v.pipe(integer, v.minValue(1), v.maxValue(MAX_EXTENT_PAGES)),
  /** Of the extents that this save has written. */
  level: levelSchema,
  /** In all packs. */
  extentCount: count,
  /** Of all packs; in format 1 of the file `pages`. */
  fileBytes: natural,
  dataPageCount: count,
  fillPageCount: count,
  zeroPageCount: count,
  absentPageCount: count,
  /** Pages in extents that no index entry points to any more. */
  supersededPageCount: count,
});

const checksums = {
  algorithm: v.literal(CHECKSUM_ALGORITHM),
  /** Of the table that has the checksums of all chunks of the page index. */
  pageIndexRoot: checksum,
};

const packSchema = v.object({
  place: v.pipe(integer, v.minValue(0), v.maxValue(PLACE_COUNT - 1)),
  id: identity,
  fileBytes: natural,
  extentCount: v.pipe(natural, v.maxValue(NUMBERS_PER_PLACE)),
  /** Pages in its extents. */
  pageCount: count,
  /** Chunks of the page index in it. */
  chunkCount: v.pipe(natural, v.maxValue(NUMBERS_PER_PLACE - 1)),
  recordsRoot: checksum,
  chunksRoot: checksum,
  /** Absent where an earlier vmckpt wrote it: its pages are stored anew by the next save. */
  pageHashes: v.optional(
    v.object({
      /** Hashes that each extent has room for. */
      perExtent: v.pipe(integer, v.minValue(1), v.maxValue(MAX_EXTENT_PAGES)),
      /** Checksum of their table. */
      root: checksum,
    }),
  ),
  /** Pages of this generation in its extents. */
  usedPageCount: v.optional(count),
});
export type Pack = Readonly<v.InferOutput<typeof packSchema>>;

export const manifestSchema = v.object({
  formatVersion: v.literal(2),
  ...identification,
  /** The id of the generation that packs are shared with. Absent in a full one. */
  parent: v.optional(identity),
  ...saved,
  sizes: v.object({
    ...sizes,
    /** Of `storedBytes`: the files that this save has written. */
    ownBytes: natural,
    /** Of `storedBytes`: packs that are other generations', too. */
    sharedBytes: natural,
  }),
  pages,
  packs: v.pipe(v.array(packSchema), v.maxLength(MAX_PACKS)),
  checksums: v.object({ ...checksums, deviceState: checksum }),
});

export const format1Schema = v.object({
  formatVersion: v.literal(1),
  ...identification,
  ...saved,
  sizes: v.object(sizes),
  pages,
  checksums: v.object({ ...checksums, extentIndexRoot: checksum, deviceState: checksum }),
});

/** What a list of generations shows of a manifest. */
export const listedFactsSchema = v.object({
  ...v.pick(manifestSchema, [
    'created',
    'mode',
    'runState',
    'vmState',
    'blockDevices',
    'sizes',
    'restoreProblems',
    'lost',
  ]).entries,
  id: identity,
});
export type ListedFacts = v.InferOutput<typeof listedFactsSchema>;

/** A moment that the calendar has; `Date.parse` knows a 30th of February. */
function isTimestamp(value: string): boolean {
  const ms = Date.parse(value);
  return (
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(value) &&
    Number.isFinite(ms) &&
    new Date(ms).toISOString().startsWith(value.slice(0, 19))
  );
}
