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
import { PAGE_BYTES } from '../pages/layout.js';
import { readRegular, requireRegular } from '../util/regular-file.js';
import { integer, misfit, parse } from '../util/schema.js';
import { errnoOf } from './files.js';
import {
  FORMAT1_FILES,
  FORMAT1_PAGE_CHUNKS,
  FORMAT_VERSION,
  GENERATION_FILES,
  HEADER_BYTES,
  NUMBERS_PER_PLACE,
  RECORD_CHUNKS,
  checksumText,
  format1IndexBytes,
  holdsExtents,
  packFile,
  packParts,
  pageChunksBytes,
  unsupportedVersion,
} from './format.js';
import { format1Schema, manifestSchema, type ListedFacts } from './manifest-schema.js';

export { MAX_DEVICE_STATE_BYTES } from './manifest-schema.js';

export const MAX_MANIFEST_BYTES = 16 << 20;

interface Identified {
  /** Tells this generation from every other one, also from a later one of the same name and number. */
  readonly id: string;
}
/** Sizes are told as in format 2: all of its files are its own. */
export type Format1Manifest = Omit<v.InferOutput<typeof format1Schema>, 'sizes'> &
  Pick<Format2Manifest, 'sizes'> &
  Identified;
export type Format2Manifest = v.InferOutput<typeof manifestSchema> & Identified;
export type Manifest = Format1Manifest | Format2Manifest;
/** What the saver knows; the writer adds the rest. */
export type ManifestParts = Omit<
  Format2Manifest,
  'formatVersion' | 'id' | 'parent' | 'ram' | 'sizes' | 'pages' | 'packs' | 'checksums'
>;

/** Bare memory, without the rest of a machine: only `vmckpt uffd` can serve it. */
export function holdsMemoryOnly({ sizes }: Pick<Manifest, 'sizes'>): boolean {
  return sizes.deviceStateBytes === 0;
}

/** Those that the VM writes to, and that the checkpoint does not hold: their files, or what else is known. */
export function externalDisks({ blockDevices }: Pick<Manifest, 'blockDevices'>): string[] {
  return blockDevices.filter(({ readOnly }) => !readOnly).map(({ file, node }) => file ?? node);
}

/** What lists show of a generation. */
export function listedFacts(manifest: Manifest): ListedFacts {
  const { id, created, mode, runState, vmState, blockDevices, sizes, restoreProblems, lost } = manifest;
  return { id, created, mode, runState, vmState, blockDevices, sizes, restoreProblems, lost };
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
  const schema = manifest.formatVersion === 1 ? format1Schema : manifestSchema;
  const json = JSON.stringify(parse<object>(schema, manifest), undefined, 2);
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
  const { formatVersion } = version.output;
  if (formatVersion > FORMAT_VERSION)
    throw unsupportedVersion(`${label}/${GENERATION_FILES.manifest}`, formatVersion);
  const parsed = v.safeParse(formatVersion === 1 ? format1Schema : manifestSchema, fields);
  if (!parsed.success) throw damaged(label, misfit(parsed.issues));
  const fault = inconsistency(parsed.output);
  if (fault !== undefined) throw damaged(label, fault);
  const { ram, sizes } = parsed.output;
  const id = parsed.output.id ?? found.padStart(IDENTITY_DIGITS, '0');
  if (parsed.output.formatVersion === 2) return { ...parsed.output, id };
  return { ...parsed.output, id, ram, sizes: { ...sizes, ownBytes: sizes.storedBytes, sharedBytes: 0 } };
}

type Fields = v.InferOutput<typeof format1Schema> | v.InferOutput<typeof manifestSchema>;

/** Which numbers of a manifest cannot be true together. */
function inconsistency(fields: Fields): string | undefined {
  const { ram, sizes, pages } = fields;
  const blockBytes = ram.blocks.reduce((sum, { usedBytes }) => sum + usedBytes, 0);
  if (sizes.ramBytes !== blockBytes || blockBytes % PAGE_BYTES !== 0)
    return `sizes.ramBytes is ${sizes.ramBytes}, whole pages of ${blockBytes} bytes expected`;
  if (fields.formatVersion === 1) return undefined;
  const { packs } = fields;
  const isTwice = (key: 'id' | 'place') => new Set(packs.map((pack) => pack[key])).size < packs.length;
  if (isTwice('id') || isTwice('place')) return 'two packs have the same id or place';
  for (const pack of packs) {
    const { hashTableOffset } = packParts(pack);
    if (hashTableOffset < HEADER_BYTES || hashTableOffset % HEADER_BYTES !== 0)
      return `${packFile(pack.id)} has ${pack.fileBytes} bytes, which its parts do not make`;
  }
  const total = (key: 'extentCount' | 'fileBytes') => packs.reduce((sum, pack) => sum + pack[key], 0);
  if (pages.extentCount !== total('extentCount') || pages.fileBytes !== total('fileBytes'))
    return `${pages.extentCount} extents in ${pages.fileBytes} bytes, the packs have others`;
  return undefined;
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
      throw new VmckptError(damageOf(name), `${label}/${name} has ${size} bytes, ${expected} expected`, {
        hint: DAMAGE_HINT,
      });
  }
}

/** How long every file is that lies beside the manifest. */
/** A file of extents: `id` and a number in the file name the same extent in every generation that has it. */
export interface ExtentOrigin {
  /** 32 hexadecimal digits. */
  readonly id: string;
  /** In this generation; the others follow. */
  readonly firstExtent: number;
  readonly extentCount: number;
}

export function extentOriginsOf(manifest: Manifest): ExtentOrigin[] {
  if (manifest.formatVersion === 2)
    return manifest.packs.map(({ id, place, extentCount }) => ({
      ...{ id, extentCount },
      firstExtent: place * NUMBERS_PER_PLACE,
    }));
  const id = manifest.checksums.extentIndexRoot.padEnd(32, '0');
  return [{ id, firstExtent: 0, extentCount: manifest.pages.extentCount }];
}

export function fileBytesOf(manifest: Manifest): Readonly<Record<string, number>> {
  const { pages, sizes, ram } = manifest;
  const pageCount = sizes.ramBytes / ram.pageBytes;
  const deviceState = { [GENERATION_FILES.deviceState]: sizes.deviceStateBytes };
  if (manifest.formatVersion === 1)
    return {
      ...deviceState,
      [FORMAT1_FILES.pageIndex]: format1IndexBytes(FORMAT1_PAGE_CHUNKS, pageCount),
      [FORMAT1_FILES.extentIndex]: format1IndexBytes(RECORD_CHUNKS, pages.extentCount),
      [FORMAT1_FILES.pages]: pages.fileBytes,
    };
  return {
    ...deviceState,
    [GENERATION_FILES.pageChunks]: pageChunksBytes(pageCount),
    ...Object.fromEntries(manifest.packs.map(({ id, fileBytes }) => [packFile(id), fileBytes])),
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

const INDEXES: readonly string[] = [
  GENERATION_FILES.pageChunks,
  FORMAT1_FILES.pageIndex,
  FORMAT1_FILES.extentIndex,
];

/** What it is when a file cannot be read, though it is there. */
function damageOf(file: string): ErrorCode {
  if (file === GENERATION_FILES.deviceState) return 'DEVICE_STATE_DAMAGED';
  if (holdsExtents(file)) return 'EXTENT_DAMAGED';
  return INDEXES.includes(file) ? 'INDEX_DAMAGED' : 'MANIFEST_DAMAGED';
}

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
  return new VmckptError(damageOf(file), `${label}/${file} cannot be read: ${errno}`, {
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
