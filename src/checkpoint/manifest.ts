/**
 * The manifest of a generation: what was saved, from what, and the checksums that everything else hangs on. JSON,
 * whose last line carries the checksum of all bytes before it (docs/format.md). Unknown fields are ignored,
 * because fields are only ever added.
 */
import { lstatSync, type Stats } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { ANOTHER_GENERATION, DAMAGE_HINT, VmckptError, type ErrorCode } from '../errors.js';
import { xxh3 } from '../native/index.js';
import { MAX_EXTENT_PAGES } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { diskFilesSchema } from '../util/disk-files.js';
import { processContextSchema } from '../util/process-schema.js';
import { readRegular, requireRegular } from '../util/regular-file.js';
import { integer, misfit, natural, parse, record, text as anyText } from '../util/schema.js';
import { errnoOf } from './files.js';
import {
  CHECKSUM_ALGORITHM,
  EXTENT_INDEX_SPEC,
  FORMAT_VERSION,
  GENERATION_FILES,
  PAGE_INDEX_SPEC,
  checksumText,
  indexBytes,
  unsupportedVersion,
} from './format.js';

export const MAX_MANIFEST_BYTES = 16 << 20;
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

export const manifestSchema = v.object({
  formatVersion: v.literal(FORMAT_VERSION),
  name: text,
  generation: v.pipe(integer, v.gtValue(0)),
  /** Random, made when the generation is written. Manifests of earlier versions have none (see decodeManifest). */
  id: v.optional(identity),
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
  sizes: v.object({
    ramBytes: natural,
    /** RAM in pages that are not zero. */
    nonZeroBytes: natural,
    /** All files of the generation but the manifest. */
    storedBytes: natural,
    deviceStateBytes: v.pipe(natural, v.maxValue(MAX_DEVICE_STATE_BYTES)),
  }),
  pages: v.object({
    extentPages: v.pipe(integer, v.minValue(1), v.maxValue(MAX_EXTENT_PAGES)),
    level: levelSchema,
    extentCount: count,
    /** Length of the file `pages`. */
    fileBytes: natural,
    dataPageCount: count,
    fillPageCount: count,
    zeroPageCount: count,
    absentPageCount: count,
    /** Pages in extents that no index entry points to any more. */
    supersededPageCount: count,
  }),
  checksums: v.object({
    algorithm: v.literal(CHECKSUM_ALGORITHM),
    pageIndexRoot: checksum,
    extentIndexRoot: checksum,
    deviceState: checksum,
  }),
});

/** A moment that the calendar has; `Date.parse` knows a 30th of February. */
function isTimestamp(value: string): boolean {
  const ms = Date.parse(value);
  return (
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(value) &&
    Number.isFinite(ms) &&
    new Date(ms).toISOString().startsWith(value.slice(0, 19))
  );
}

export type Manifest = v.InferOutput<typeof manifestSchema> & {
  /** Tells this generation from every other one, also from a later one of the same name and number. */
  readonly id: string;
};
/** What the saver knows; the writer adds the rest. */
export type ManifestParts = Omit<Manifest, 'formatVersion' | 'id' | 'ram' | 'sizes' | 'pages' | 'checksums'>;

/** Bare memory, without the rest of a machine: only `vmckpt uffd` can serve it. */
export function holdsMemoryOnly({ sizes }: Pick<Manifest, 'sizes'>): boolean {
  return sizes.deviceStateBytes === 0;
}

/** Those that the VM writes to, and that the checkpoint does not hold: their files, or what else is known. */
export function externalDisks({ blockDevices }: Pick<Manifest, 'blockDevices'>): string[] {
  return blockDevices.filter(({ readOnly }) => !readOnly).map(({ file, node }) => file ?? node);
}

/** @throws VmckptError MEMORY_ONLY */
export function requireMachine(manifest: Manifest): void {
  if (!holdsMemoryOnly(manifest)) return;
  const { name, generation } = manifest;
  throw new VmckptError(
    'MEMORY_ONLY',
    `a whole machine expected, but ${name}@${generation} holds bare memory without devices`,
    { hint: `vmckpt uffd ${name}@${generation} --socket PATH serves it to the VMM that has the devices.` },
  );
}

const IDENTITY_DIGITS = 32;
const TRAILER = /^ {2}"manifestXxh3": "([0-9a-f]{16})"\n\}\n$/;
const TRAILER_BYTES = '  "manifestXxh3": "0123456789abcdef"\n}\n'.length;

/** @throws Error when a field is out of bounds: a bug of the caller's. */
export function encodeManifest(manifest: Manifest): Buffer {
  const json = JSON.stringify(parse(manifestSchema, manifest), undefined, 2);
  // The object stays open for the checksum, its last field.
  const covered = Buffer.from(`${json.slice(0, json.lastIndexOf('\n}'))},\n`);
  const encoded = Buffer.concat([
    covered,
    Buffer.from(`  "manifestXxh3": "${checksumText(xxh3(covered))}"\n}\n`),
  ]);
  if (encoded.length > MAX_MANIFEST_BYTES)
    throw new VmckptError(
      'FAILED',
      `the manifest would have ${encoded.length} bytes, at most ${MAX_MANIFEST_BYTES} allowed`,
    );
  return encoded;
}

/**
 * A manifest without an id gets one that follows from its checksum.
 * @param label names the generation in messages
 * @throws VmckptError MANIFEST_DAMAGED or FORMAT_UNSUPPORTED
 */
export function decodeManifest(encoded: Buffer, label: string): Manifest {
  const coveredBytes = Math.max(0, encoded.length - TRAILER_BYTES);
  const stored = TRAILER.exec(encoded.toString('latin1', coveredBytes))?.[1];
  if (stored === undefined) throw damaged(label, 'its last line is not a checksum');
  const found = checksumText(xxh3(encoded, 0, coveredBytes));
  if (stored !== found) throw damaged(label, `its checksum is ${found}, ${stored} expected`);
  let fields: unknown;
  try {
    fields = JSON.parse(encoded.toString('utf8'));
  } catch (error) {
    throw damaged(label, 'it is not JSON', error);
  }
  const version = v.safeParse(v.object({ formatVersion: v.pipe(integer, v.gtValue(0)) }), fields);
  if (!version.success) throw damaged(label, 'it has no format version');
  if (version.output.formatVersion !== FORMAT_VERSION)
    throw unsupportedVersion(`${label}/${GENERATION_FILES.manifest}`, version.output.formatVersion);
  const parsed = v.safeParse(manifestSchema, fields);
  if (!parsed.success) throw damaged(label, misfit(parsed.issues));
  const { ram, sizes } = parsed.output;
  const blockBytes = ram.blocks.reduce((sum, { usedBytes }) => sum + usedBytes, 0);
  if (sizes.ramBytes !== blockBytes || blockBytes % PAGE_BYTES !== 0)
    throw damaged(label, `sizes.ramBytes is ${sizes.ramBytes}, whole pages of ${blockBytes} bytes expected`);
  return { ...parsed.output, id: parsed.output.id ?? found.padStart(IDENTITY_DIGITS, '0') };
}

/**
 * Reads and verifies the manifest of the generation in `dir`, and looks whether all the other files are there, as long as they
 * must be: what lacks one is of no use to anybody.
 * @throws VmckptError MANIFEST_DAMAGED, FORMAT_UNSUPPORTED, FILE_MISSING, NOT_A_FILE, NOT_PERMITTED, and
 *   DEVICE_STATE_DAMAGED, INDEX_DAMAGED, EXTENT_DAMAGED for a file of another length
 */
export function readManifest(dir: string): Manifest {
  return readEncodedManifest(dir).manifest;
}

/** The same, with the bytes that it was decoded from. */
export function readEncodedManifest(dir: string): { readonly manifest: Manifest; readonly encoded: Buffer } {
  const label = generationLabel(dir);
  const file = path.join(dir, GENERATION_FILES.manifest);
  let encoded: Buffer | undefined;
  try {
    encoded = readRegular(file, MAX_MANIFEST_BYTES);
  } catch (error) {
    throw openFailure(error, label, GENERATION_FILES.manifest);
  }
  if (encoded === undefined)
    throw damaged(label, `it has more than the ${MAX_MANIFEST_BYTES} bytes that it may have`);
  const manifest = calledByFolder(decodeManifest(encoded, label), dir);
  requireFiles(dir, manifest);
  return { manifest, encoded };
}

/** A copy under another name is called what the user calls it; one that is not finished has no number yet. */
function calledByFolder(manifest: Manifest, dir: string): Manifest {
  const absolute = path.resolve(dir);
  const generation = path.basename(absolute);
  if (!/^[1-9]\d{0,8}$/.test(generation)) return manifest;
  return { ...manifest, name: path.basename(path.dirname(absolute)), generation: Number(generation) };
}

/** Nothing is read that is longer than it can be. @throws VmckptError as readManifest() */
function requireFiles(dir: string, manifest: Manifest): void {
  const label = generationLabel(dir);
  for (const [name, expected] of Object.entries(fileBytesOf(manifest))) {
    const { size } = lstatRegular(dir, name);
    if (size !== expected)
      throw new VmckptError(DAMAGE[name]!, `${label}/${name} has ${size} bytes, ${expected} expected`, {
        hint: DAMAGE_HINT,
      });
  }
}

/** How long every file is that lies beside the manifest. */
export function fileBytesOf({ pages, sizes, ram }: Manifest): Readonly<Record<string, number>> {
  return {
    [GENERATION_FILES.deviceState]: sizes.deviceStateBytes,
    [GENERATION_FILES.pageIndex]: indexBytes(PAGE_INDEX_SPEC, sizes.ramBytes / ram.pageBytes),
    [GENERATION_FILES.extentIndex]: indexBytes(EXTENT_INDEX_SPEC, pages.extentCount),
    [GENERATION_FILES.pages]: pages.fileBytes,
  };
}

/** @throws VmckptError FILE_MISSING, NOT_A_FILE, NOT_PERMITTED */
function lstatRegular(dir: string, name: string): Stats {
  try {
    const file = path.join(dir, name);
    const found = lstatSync(file);
    requireRegular(file, found);
    return found;
  } catch (error) {
    throw openFailure(error, generationLabel(dir), name);
  }
}

/** How messages name a generation: by its directory's last two names, `web/3`. */
export function generationLabel(dir: string): string {
  const absolute = path.resolve(dir);
  return `${path.basename(path.dirname(absolute))}/${path.basename(absolute)}`;
}

/** What it is when a file cannot be read, though it is there. */
const DAMAGE: Readonly<Record<string, ErrorCode>> = {
  [GENERATION_FILES.deviceState]: 'DEVICE_STATE_DAMAGED',
  [GENERATION_FILES.pageIndex]: 'INDEX_DAMAGED',
  [GENERATION_FILES.extentIndex]: 'INDEX_DAMAGED',
  [GENERATION_FILES.pages]: 'EXTENT_DAMAGED',
};

/** What it means that a file of a generation cannot be opened. */
export function openFailure(error: unknown, label: string, file: string): unknown {
  const errno = errnoOf(error);
  if (error instanceof VmckptError || errno === undefined) return error;
  if (errno === 'ENOENT' || errno === 'ENOTDIR')
    return new VmckptError('FILE_MISSING', `${label} has no file "${file}"`, {
      hint: `It has been deleted, or this is not a checkpoint. ${ANOTHER_GENERATION}`,
      cause: error,
    });
  if (errno === 'EACCES' || errno === 'EPERM')
    return new VmckptError('NOT_PERMITTED', `${label}/${file} may not be read by this user`, {
      cause: error,
    });
  return new VmckptError(DAMAGE[file] ?? 'MANIFEST_DAMAGED', `${label}/${file} cannot be read: ${errno}`, {
    hint: ANOTHER_GENERATION,
    cause: error,
  });
}

function damaged(label: string, message: string, cause?: unknown): VmckptError {
  return new VmckptError('MANIFEST_DAMAGED', `the manifest of ${label} is damaged: ${message}`, {
    hint: ANOTHER_GENERATION,
    cause,
  });
}
