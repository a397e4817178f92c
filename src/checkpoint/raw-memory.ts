/**
 * The raw memory file of a generation: the machine's main memory byte for byte, made later than the generation and
 * lying beside it, for QEMU to map. Its pages are as trustworthy as the file is unchanged, so a note beside it tells
 * what it was when it was made: a restore compares that, which costs nothing; `check` compares every byte.
 */
import { closeSync, fstatSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import type { RamBlock } from '../pages/layout.js';
import { parseJson } from '../util/json-file.js';
import { openRegular, readRegular } from '../util/regular-file.js';
import { integer } from '../util/schema.js';
import { errnoOf, fsyncPath, writeNewFile } from './files.js';
import { generationLabel, openFailure, type Manifest } from './manifest.js';

export const RAW_MEMORY_FILE = 'raw-memory';
const NOTE_FILE = 'raw-memory.json';
const NOTE_TEMPORARY = '.raw-memory.json.tmp';
const MAX_NOTE_BYTES = 64 << 10;
/** The RAM block of a machine whose memory is given by its size alone. */
const DEFAULT_BLOCK = 'pc.ram';

const noteSchema = v.object({
  formatVersion: v.literal(1),
  block: v.string(),
  sizeBytes: v.pipe(integer, v.gtValue(0)),
  /** The manifest's: which generation the file was made from. */
  pageIndexRoot: v.string(),
  /** stat(2) of the file; numbers that JSON cannot hold are decimal text. */
  file: v.object({ inode: v.string(), mtimeNs: v.string(), ctimeNs: v.string() }),
});
type Note = v.InferOutput<typeof noteSchema>;

export interface RawMemory {
  readonly file: string;
  /** QEMU's name of the RAM block that it holds. */
  readonly block: string;
  readonly sizeBytes: number;
  /** What it takes on the disk: zero pages are holes. */
  readonly storedBytes: number;
}

type Backend = Pick<Manifest['memoryBackends'][number], 'id' | 'share'>;

/** The name of main memory's block, where a private mapping can stand for it. @throws VmckptError MAP_REFUSED */
export function mainMemoryName(backends: readonly Backend[]): string {
  const ids = backends.map(({ id }) => id).sort();
  if (ids.length > 1) throw refused(`the machine's memory is in several pieces (${ids.join(', ')})`);
  const [backend] = backends;
  if (backend?.share) throw refused(`the machine's memory ("${backend.id}") is shared with other processes`);
  return backend?.id ?? DEFAULT_BLOCK;
}

/** @throws VmckptError MAP_REFUSED */
export function mainMemoryOf({ memoryBackends, ram }: Manifest): RamBlock {
  const name = mainMemoryName(memoryBackends);
  const block = ram.blocks.find((candidate) => candidate.name === name);
  if (block === undefined) throw refused(`the machine has no RAM block "${name}"`);
  return block;
}

/** @returns undefined when there is none, or an unfinished one. @throws VmckptError RAW_MEMORY_CHANGED, NOT_PERMITTED */
export function findRawMemory(dir: string, manifest: Manifest): RawMemory | undefined {
  const note = ifThere(dir, NOTE_FILE, (file) =>
    parseJson(noteSchema, readRegular(file, MAX_NOTE_BYTES)?.toString()),
  );
  if (note === undefined) return undefined;
  const { pageIndexRoot } = manifest.checksums;
  const found = ifThere(dir, RAW_MEMORY_FILE, (file) => noteOf(file, { ...note, pageIndexRoot }));
  if (found === undefined) throw changed(dir, 'it is gone');
  const difference = differenceBetween(note, found.note);
  if (difference !== undefined) throw changed(dir, difference);
  const file = path.join(dir, RAW_MEMORY_FILE);
  return { file, block: note.block, sizeBytes: note.sizeBytes, storedBytes: found.storedBytes };
}

/** For people: what is there, or why it cannot be mapped; null when there is none. */
export interface RawMemorySummary {
  readonly sizeBytes: number | null;
  readonly storedBytes: number | null;
  readonly problem: string | null;
}

export function summarizeRawMemory(dir: string, manifest: Manifest): RawMemorySummary | null {
  try {
    const found = findRawMemory(dir, manifest);
    if (found === undefined) return null;
    const { sizeBytes, storedBytes } = found;
    return { sizeBytes, storedBytes, problem: null };
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    return { sizeBytes: null, storedBytes: null, problem: error.message };
  }
}

/** @throws VmckptError NO_RAW_MEMORY, RAW_MEMORY_CHANGED, MAP_REFUSED where there can be none */
export function requireRawMemory(dir: string, manifest: Manifest): RawMemory {
  const found = findRawMemory(dir, manifest);
  if (found !== undefined) return found;
  mainMemoryOf(manifest);
  const reference = generationLabel(dir).replace('/', '@');
  throw new VmckptError('NO_RAW_MEMORY', `${reference} has no raw memory file that QEMU could map`, {
    hint: `Make one: vmckpt materialize ${reference}`,
  });
}

/**
 * Gives a whole and fsynced file in the generation's folder the name of the raw memory, and notes what it is. A crash in
 * between leaves a file without its note, which counts for nothing.
 */
export async function commitRawMemory(
  dir: string,
  temporary: string,
  manifest: Manifest,
): Promise<RawMemory> {
  const { name: block, usedBytes: sizeBytes } = mainMemoryOf(manifest);
  const file = path.join(dir, RAW_MEMORY_FILE);
  await rename(temporary, file);
  const { pageIndexRoot } = manifest.checksums;
  // A rename changes the time that is noted.
  const { note, storedBytes } = noteOf(file, { formatVersion: 1, block, sizeBytes, pageIndexRoot });
  const written = path.join(dir, NOTE_TEMPORARY);
  await rm(written, { force: true });
  await writeNewFile(written, Buffer.from(`${JSON.stringify(note)}\n`));
  await rename(written, path.join(dir, NOTE_FILE));
  await fsyncPath(dir);
  return { file, block, sizeBytes, storedBytes };
}

/** What `look` finds in a file of the generation; undefined when it is not there. */
function ifThere<T>(dir: string, name: string, look: (file: string) => T): T | undefined {
  try {
    return look(path.join(dir, name));
  } catch (error) {
    if (error instanceof VmckptError && error.code === 'NOT_A_FILE') throw changed(dir, error.message);
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw openFailure(error, generationLabel(dir), name);
  }
}

/** What a note of this file would say now. @throws VmckptError NOT_A_FILE; system errors as they are */
function noteOf(
  file: string,
  known: Omit<Note, 'file'>,
): { readonly note: Note; readonly storedBytes: number } {
  const fd = openRegular(file);
  try {
    const { ino, mtimeNs, ctimeNs, size, blocks } = fstatSync(fd, { bigint: true });
    return {
      note: {
        ...known,
        sizeBytes: Number(size),
        file: { inode: `${ino}`, mtimeNs: `${mtimeNs}`, ctimeNs: `${ctimeNs}` },
      },
      storedBytes: Number(blocks) * 512,
    };
  } finally {
    closeSync(fd);
  }
}

function differenceBetween(noted: Note, found: Note): string | undefined {
  if (noted.pageIndexRoot !== found.pageIndexRoot) return 'it was made from another generation';
  if (noted.sizeBytes !== found.sizeBytes)
    return `it has ${found.sizeBytes} bytes, ${noted.sizeBytes} expected`;
  if (noted.file.inode !== found.file.inode) return 'it is another file than the one that was made';
  if (noted.file.mtimeNs !== found.file.mtimeNs) return 'it was written to after it was made';
  return noted.file.ctimeNs === found.file.ctimeNs ? undefined : 'it was touched after it was made';
}

function changed(dir: string, what: string): VmckptError {
  const reference = generationLabel(dir).replace('/', '@');
  return new VmckptError(
    'RAW_MEMORY_CHANGED',
    `the raw memory file of ${reference} cannot be relied on: ${what}`,
    { hint: `Make it again: vmckpt materialize ${reference}` },
  );
}

function refused(why: string): VmckptError {
  return new VmckptError('MAP_REFUSED', `a raw file cannot stand for its memory: ${why}`, {
    hint: 'Restore it in another mode: vmckpt restore NAME, or --mode eager.',
  });
}
