/**
 * The files with the pages of a local generation, opened: headers and tables are verified, and the rest when it is used.
 * The two formats differ here, and nowhere behind.
 */
import fs from 'node:fs';
import path from 'node:path';
import { DAMAGE_HINT, VmckptError } from '../errors.js';
import { openRegular } from '../util/regular-file.js';
import { ChunkReader, indexDamaged, readTable, type EntryChunks } from './chunk-reader.js';
import { readAt } from './files.js';
import {
  CHECKSUM_BYTES,
  FORMAT1_FILES,
  FORMAT1_PAGE_CHUNKS,
  FORMAT1_SPECS,
  GENERATION_FILES,
  HEADER_BYTES,
  NO_CHUNK,
  NUMBERS_PER_PLACE,
  PACK_SPEC,
  PAGE_CHUNKS,
  PAGE_CHUNKS_SPEC,
  RECORD_CHUNKS,
  chunkCountOf,
  holdsExtents,
  packFile,
  packParts,
  verifyHeader,
  type ChunkShape,
  type FileSpec,
} from './format.js';
import type { Pack } from './manifest-schema.js';
import {
  generationLabel,
  openFailure,
  type Format1Manifest,
  type Format2Manifest,
  type Manifest,
} from './manifest.js';

/** 32 MiB: the index of 16 GiB of RAM. */
const PAGE_CACHE_BYTES = 32 << 20;
/** 16 MiB: the extents of 16 GiB of RAM, at 8 pages an extent. */
const RECORD_CACHE_BYTES = 16 << 20;

/** A file of extents, and what is known of them. */
export interface ExtentFile {
  readonly place: number;
  readonly extentCount: number;
  /** By number in this file. */
  readonly records: EntryChunks;
  readonly fd: number;
  /** Its name. */
  readonly name: string;
  /** Every extent ends here, or before. */
  readonly endOffset: number;
}

export interface PageFiles {
  /** By page. */
  readonly pages: EntryChunks;
  readonly pagesPerChunk: number;
  readonly extentFiles: readonly ExtentFile[];
  /** An extent's number is its file's place times this, plus its number in the file. */
  readonly numbersPerPlace: number;
  /** Of format 2: for each chunk of the page index its checksum, and where it lies. */
  readonly pageTable?: Buffer;
}

export interface OpenPageFiles extends PageFiles {
  close(): void;
}

/** @throws VmckptError INDEX_DAMAGED, EXTENT_DAMAGED, FORMAT_UNSUPPORTED, FILE_MISSING, NOT_A_FILE, NOT_PERMITTED */
export function openPageFiles(dir: string, manifest: Manifest): OpenPageFiles {
  const files = new Files(dir);
  try {
    const opened = manifest.formatVersion === 1 ? openFormat1(files, manifest) : openFormat2(files, manifest);
    return { ...opened, close: () => files.close() };
  } catch (error) {
    files.close();
    throw error;
  }
}

/** Opens files of one generation, and knows which. */
class Files {
  readonly label: string;
  readonly #fds: number[] = [];
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
    this.label = generationLabel(dir);
  }

  /** A file whose length and header are right. */
  open(
    name: string,
    spec: FileSpec,
    { fileBytes, ...contents }: { fileBytes: number; entryCount: number; id?: string },
  ): number {
    const file = `${this.label}/${name}`;
    let fd: number;
    try {
      fd = openRegular(path.join(this.#dir, name));
    } catch (error) {
      throw openFailure(error, this.label, name);
    }
    this.#fds.push(fd);
    const header = Buffer.alloc(HEADER_BYTES);
    readAt(fd, header, 0);
    verifyHeader(header, spec, { ...contents, file });
    const { size } = fs.fstatSync(fd);
    if (size === fileBytes) return fd;
    const text = `${size} bytes long, ${fileBytes} expected`;
    if (!holdsExtents(name)) throw indexDamaged(file, text);
    throw new VmckptError('EXTENT_DAMAGED', `${file}: ${text}`, { hint: DAMAGE_HINT });
  }

  close(): void {
    for (const fd of this.#fds.splice(0)) fs.closeSync(fd);
  }
}

function openFormat1(files: Files, manifest: Format1Manifest): PageFiles {
  const { checksums, pages, ram, sizes } = manifest;
  const pageCount = sizes.ramBytes / ram.pageBytes;
  const { extentCount, fileBytes } = pages;
  const index = (name: string, spec: FileSpec, of: Omit<Format1Index, 'name' | 'spec'>) =>
    openFormat1Index(files, { name, spec, ...of });
  const records = index(FORMAT1_FILES.extentIndex, FORMAT1_SPECS.extentIndex, {
    shape: RECORD_CHUNKS,
    entryCount: extentCount,
    root: checksums.extentIndexRoot,
    cacheBytes: RECORD_CACHE_BYTES,
  });
  const pageEntries = index(FORMAT1_FILES.pageIndex, FORMAT1_SPECS.pageIndex, {
    shape: FORMAT1_PAGE_CHUNKS,
    entryCount: pageCount,
    root: checksums.pageIndexRoot,
    cacheBytes: PAGE_CACHE_BYTES,
  });
  const name = FORMAT1_FILES.pages;
  const fd = files.open(name, FORMAT1_SPECS.pages, { fileBytes, entryCount: 0 });
  const extentFile = { place: 0, extentCount, records, fd, name, endOffset: fileBytes };
  const { entriesPerChunk: pagesPerChunk } = FORMAT1_PAGE_CHUNKS;
  return { pages: pageEntries, pagesPerChunk, extentFiles: [extentFile], numbersPerPlace: 2 ** 32 };
}

interface Format1Index {
  readonly name: string;
  readonly spec: FileSpec;
  readonly shape: ChunkShape;
  readonly entryCount: number;
  readonly root: string;
  readonly cacheBytes: number;
}

function openFormat1Index(
  files: Files,
  { name, spec, shape, entryCount, root, cacheBytes }: Format1Index,
): ChunkReader {
  const file = `${files.label}/${name}`;
  const tableOffset = HEADER_BYTES + chunkCountOf(shape, entryCount) * shape.chunkBytes;
  const bytes = chunkCountOf(shape, entryCount) * CHECKSUM_BYTES;
  const fd = files.open(name, spec, { fileBytes: tableOffset + bytes, entryCount });
  const table = readTable(fd, { offset: tableOffset, bytes, root: BigInt(`0x${root}`), file });
  return new ChunkReader({
    ...{ label: file, shape, entryCount, maxCachedChunks: cacheBytes / shape.chunkBytes },
    placeOf: (chunk) => ({
      ...{ fd, file, offset: HEADER_BYTES + chunk * shape.chunkBytes },
      checksum: table.readBigUInt64LE(chunk * CHECKSUM_BYTES),
    }),
  });
}

function openFormat2(files: Files, manifest: Format2Manifest): PageFiles {
  const { checksums, packs, ram, sizes } = manifest;
  const extentFiles = packs.map((pack) => openPack(files, pack));
  const byPlace = new Map(packs.map((pack, at) => [pack.place, { pack, fd: extentFiles[at]!.fd }]));
  const pageCount = sizes.ramBytes / ram.pageBytes;
  const chunkCount = chunkCountOf(PAGE_CHUNKS, pageCount);
  const { entryBytes, chunkBytes } = PAGE_CHUNKS_SPEC;
  const name = GENERATION_FILES.pageChunks;
  const label = `${files.label}/${name}`;
  const bytes = chunkCount * entryBytes;
  const fd = files.open(name, PAGE_CHUNKS_SPEC, { fileBytes: HEADER_BYTES + bytes, entryCount: chunkCount });
  const root = BigInt(`0x${checksums.pageIndexRoot}`);
  const table = readTable(fd, { offset: HEADER_BYTES, bytes, root, file: label });
  const placeOf = (chunk: number) => {
    const at = table.readUInt32LE(chunk * entryBytes + CHECKSUM_BYTES);
    if (at === NO_CHUNK) return undefined;
    const found = byPlace.get(Math.floor(at / NUMBERS_PER_PLACE));
    const number = at % NUMBERS_PER_PLACE;
    if (found === undefined || number >= found.pack.chunkCount)
      throw indexDamaged(label, `chunk ${chunk} lies in place ${at}, which no pack has`);
    return {
      fd: found.fd,
      offset: packParts(found.pack).chunksOffset + number * chunkBytes,
      checksum: table.readBigUInt64LE(chunk * entryBytes),
      file: `${files.label}/${packFile(found.pack.id)}`,
    };
  };
  const maxCachedChunks = PAGE_CACHE_BYTES / chunkBytes;
  const pages = new ChunkReader({
    label,
    shape: PAGE_CHUNKS,
    entryCount: pageCount,
    placeOf,
    maxCachedChunks,
  });
  const { entriesPerChunk: pagesPerChunk } = PAGE_CHUNKS;
  return { pages, pagesPerChunk, extentFiles, numbersPerPlace: NUMBERS_PER_PLACE, pageTable: table };
}

function openPack(files: Files, pack: Pack): ExtentFile {
  const { place, id, extentCount, fileBytes } = pack;
  const name = packFile(id);
  const file = `${files.label}/${name}`;
  const fd = files.open(name, PACK_SPEC, { fileBytes, entryCount: extentCount, id });
  const { hashTableOffset, recordsOffset, recordTableOffset, chunkTableOffset } = packParts(pack);
  const table = readTable(fd, {
    offset: recordTableOffset,
    bytes: chunkTableOffset - recordTableOffset,
    root: BigInt(`0x${pack.recordsRoot}`),
    file,
  });
  const records = new ChunkReader({
    label: file,
    shape: RECORD_CHUNKS,
    entryCount: extentCount,
    maxCachedChunks: RECORD_CACHE_BYTES / RECORD_CHUNKS.chunkBytes,
    placeOf: (chunk) => ({
      ...{ fd, file, offset: recordsOffset + chunk * RECORD_CHUNKS.chunkBytes },
      checksum: table.readBigUInt64LE(chunk * CHECKSUM_BYTES),
    }),
  });
  return { place, extentCount, records, fd, name, endOffset: hashTableOffset };
}
