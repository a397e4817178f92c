/**
 * The numbers of checkpoint formats 1 and 2, and the headers of their binary files. docs/format.md specifies every byte.
 * Everything is little-endian, like every host that runs vmckpt, so that index chunks are used in place as typed
 * arrays.
 */
import { VmckptError } from '../errors.js';
import { xxh3 } from '../native/index.js';
import { PAGE_KINDS } from '../pages/contracts.js';

/** What is written. Older versions are read. */
export const FORMAT_VERSION = 2;
export const CHECKSUM_ALGORITHM = 'xxh3-64';
/** May lie beside the files of a generation; src/working-set/hot-pack.ts makes it. */
export const HOT_PACK_FILE = 'hot-pack';

/** Besides its packs. */
export const GENERATION_FILES = {
  manifest: 'manifest.json',
  deviceState: 'device-state',
  pageChunks: 'page-chunks',
} as const;

/** In place of packs and of their table. */
export const FORMAT1_FILES = {
  pageIndex: 'page-index',
  extentIndex: 'extent-index',
  pages: 'pages',
} as const;

/** @param id of the pack, 32 hexadecimal digits */
export function packFile(id: string): string {
  return `pack-${id}`;
}

/** Whether a file is of no use without the extents in it. */
export function holdsExtents(file: string): boolean {
  return file === FORMAT1_FILES.pages || file.startsWith(packFile(''));
}

/** A whole page, so that what follows can be mapped and is aligned. */
export const HEADER_BYTES = 4096;
export const CHECKSUM_BYTES = 8;

/** Packs of one generation. */
export const MAX_PACKS = 64;
/** The places that a pack can have. */
export const PLACE_COUNT = 256;
/** An extent's number, and a chunk's, is its pack's place times this, plus its number in the pack. */
export const NUMBERS_PER_PLACE = 2 ** 24;
/** In the table of page chunks: one that is nowhere, because all its pages are absent. */
export const NO_CHUNK = 0xffff_ffff;

/** More pages together compress better; stored raw they only take longer to read for one of them. */
export const DEFAULT_EXTENT_PAGES = { compressed: 8, raw: 4 } as const;

/** Entries of one kind, in chunks that are read and verified whole. */
export interface ChunkShape {
  readonly entryBytes: number;
  readonly chunkBytes: number;
  readonly entriesPerChunk: number;
  /** 32-bit words of one entry. */
  readonly entryWords: number;
}

export const RECORD_CHUNKS = chunkShape(32, 64 * 1024);
/** Small ones: a chunk of which no page has changed is shared with the generation before. */
export const PAGE_CHUNKS = chunkShape(8, 16 * 1024);
export const FORMAT1_PAGE_CHUNKS = chunkShape(8, 64 * 1024);
/** Of 16 bytes each. */
export const HASH_CHUNKS = chunkShape(16, 16 * 1024);

function chunkShape(entryBytes: number, chunkBytes: number): ChunkShape {
  return { entryBytes, chunkBytes, entriesPerChunk: chunkBytes / entryBytes, entryWords: entryBytes / 4 };
}

export function chunkCountOf({ entriesPerChunk }: ChunkShape, entryCount: number): number {
  return Math.ceil(entryCount / entriesPerChunk);
}

/** What the header of a file says, besides its number of entries. */
export interface FileSpec {
  readonly magic: string;
  readonly formatVersion: number;
  readonly entryBytes: number;
  readonly chunkBytes: number;
}

const { entryBytes: RECORD_BYTES, chunkBytes: RECORD_CHUNK_BYTES } = RECORD_CHUNKS;

export const PACK_SPEC: FileSpec = {
  magic: 'VMCKPTpk',
  formatVersion: 2,
  entryBytes: RECORD_BYTES,
  chunkBytes: RECORD_CHUNK_BYTES,
};
/** For each chunk of the page index its checksum, and where it lies. */
export const PAGE_CHUNKS_SPEC: FileSpec = {
  magic: 'VMCKPTpc',
  formatVersion: 2,
  entryBytes: 12,
  chunkBytes: PAGE_CHUNKS.chunkBytes,
};
export const FORMAT1_SPECS = {
  pages: { magic: 'VMCKPTpg', formatVersion: 1, entryBytes: 0, chunkBytes: 0 },
  pageIndex: { magic: 'VMCKPTpi', formatVersion: 1, ...bytesOf(FORMAT1_PAGE_CHUNKS) },
  extentIndex: { magic: 'VMCKPTei', formatVersion: 1, ...bytesOf(RECORD_CHUNKS) },
} as const satisfies Record<string, FileSpec>;

function bytesOf({ entryBytes, chunkBytes }: ChunkShape): Pick<FileSpec, 'entryBytes' | 'chunkBytes'> {
  return { entryBytes, chunkBytes };
}

/** Of an index file of format 1: a header, whole chunks, and a checksum for each of them. */
export function format1IndexBytes(shape: ChunkShape, entryCount: number): number {
  return HEADER_BYTES + chunkCountOf(shape, entryCount) * (shape.chunkBytes + CHECKSUM_BYTES);
}

export function pageChunksBytes(pageCount: number): number {
  return HEADER_BYTES + chunkCountOf(PAGE_CHUNKS, pageCount) * PAGE_CHUNKS_SPEC.entryBytes;
}

export interface PackParts {
  /** A checksum for each chunk of page hashes, to the end of a page; the extents lie before them. */
  readonly hashTableOffset: number;
  /** Chunks of page hashes. */
  readonly hashesOffset: number;
  /** Chunks of extent records. */
  readonly recordsOffset: number;
  /** Chunks of the page index. */
  readonly chunksOffset: number;
  /** A checksum for each chunk of records. */
  readonly recordTableOffset: number;
  /** A checksum for each chunk of the page index; it ends the file. */
  readonly chunkTableOffset: number;
}

/** Where the parts of a pack lie. One whose numbers do not fit each other has parts in places that make no sense. */
export function packParts(pack: {
  readonly fileBytes: number;
  readonly extentCount: number;
  readonly chunkCount: number;
  readonly pageHashes?: { readonly perExtent: number } | undefined;
}): PackParts {
  const recordChunks = chunkCountOf(RECORD_CHUNKS, pack.extentCount);
  const chunkTableOffset = pack.fileBytes - pack.chunkCount * CHECKSUM_BYTES;
  const recordTableOffset = chunkTableOffset - recordChunks * CHECKSUM_BYTES;
  const chunksOffset = recordTableOffset - pack.chunkCount * PAGE_CHUNKS.chunkBytes;
  const recordsOffset = chunksOffset - recordChunks * RECORD_CHUNKS.chunkBytes;
  const hashChunks = chunkCountOf(HASH_CHUNKS, pack.extentCount * (pack.pageHashes?.perExtent ?? 0));
  const hashesOffset = recordsOffset - hashChunks * HASH_CHUNKS.chunkBytes;
  const hashTableOffset = hashesOffset - hashTableBytes(hashChunks);
  return {
    hashTableOffset,
    hashesOffset,
    recordsOffset,
    chunksOffset,
    recordTableOffset,
    chunkTableOffset,
  };
}

/** Whole pages, so that what lies behind the table is aligned. */
export function hashTableBytes(hashChunks: number): number {
  return Math.ceil((hashChunks * CHECKSUM_BYTES) / HEADER_BYTES) * HEADER_BYTES;
}

/** How an extent's bytes are stored. */
export const CODECS = { raw: 0, zstd: 1 } as const;

/** Words of an extent record; the checksum's two words are also one aligned u64. */
export const RECORD = {
  offsetLow: 0,
  offsetHigh: 1,
  storedBytes: 2,
  /** pageCount | codec << 8 */
  shape: 3,
  checksum: 4,
  reserved: 6,
} as const;

export interface ExtentInfo {
  /** From the start of the file that it lies in. */
  readonly offset: number;
  readonly storedBytes: number;
  readonly pageCount: number;
  readonly codec: number;
  readonly checksum: bigint;
}

/** Reads record `at` (in words) of a chunk of extent records. */
export function decodeExtent(words: Uint32Array, at: number): ExtentInfo {
  const shape = words[at + RECORD.shape]!;
  const low = BigInt(words[at + RECORD.checksum]!);
  const high = BigInt(words[at + RECORD.checksum + 1]!);
  return {
    offset: words[at + RECORD.offsetLow]! + words[at + RECORD.offsetHigh]! * 2 ** 32,
    storedBytes: words[at + RECORD.storedBytes]!,
    pageCount: shape & 0xff,
    codec: shape >>> 8,
    checksum: (high << 32n) | low,
  };
}

/** Writes record `at` (in words); the inverse of decodeExtent. */
export function encodeExtent(words: Uint32Array, at: number, extent: ExtentInfo): void {
  words[at + RECORD.offsetLow] = extent.offset % 2 ** 32;
  words[at + RECORD.offsetHigh] = Math.floor(extent.offset / 2 ** 32);
  words[at + RECORD.storedBytes] = extent.storedBytes;
  words[at + RECORD.shape] = extent.pageCount | (extent.codec << 8);
  words[at + RECORD.checksum] = Number(extent.checksum & 0xffff_ffffn);
  words[at + RECORD.checksum + 1] = Number(extent.checksum >> 32n);
  words[at + RECORD.reserved] = 0;
  words[at + RECORD.reserved + 1] = 0;
}

/** First word of a page entry: kind | slot << 8 | fillByte << 16; the second one is the extent's number. */
export function dataEntry(slot: number): number {
  return PAGE_KINDS.data | (slot << 8);
}

export function fillEntry(byte: number): number {
  return byte === 0 ? PAGE_KINDS.zero : PAGE_KINDS.fill | (byte << 16);
}

export function checksumText(checksum: bigint): string {
  return checksum.toString(16).padStart(16, '0');
}

const HEADER = { magic: 0, formatVersion: 8, headerBytes: 12, algorithm: 16, entryBytes: 32, chunkBytes: 36 };
const HEADER_ENTRY_COUNT = 40;
const HEADER_ID = 48;
const HEADER_CHECKSUM = HEADER_BYTES - CHECKSUM_BYTES;

export interface HeaderContents {
  readonly entryCount: number;
  /** Of a pack. */
  readonly id?: string;
}

export function encodeHeader(spec: FileSpec, { entryCount, id = '' }: HeaderContents): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(spec.magic, HEADER.magic, 'latin1');
  header.writeUInt32LE(spec.formatVersion, HEADER.formatVersion);
  header.writeUInt32LE(HEADER_BYTES, HEADER.headerBytes);
  header.write(CHECKSUM_ALGORITHM, HEADER.algorithm, 'latin1');
  header.writeUInt32LE(spec.entryBytes, HEADER.entryBytes);
  header.writeUInt32LE(spec.chunkBytes, HEADER.chunkBytes);
  header.writeBigUInt64LE(BigInt(entryCount), HEADER_ENTRY_COUNT);
  header.write(id, HEADER_ID, 'hex');
  header.writeBigUInt64LE(xxh3(header, 0, HEADER_CHECKSUM), HEADER_CHECKSUM);
  return header;
}

/**
 * Checks a header against what the manifest leads one to expect. A file of another version says so only when its
 * header is whole.
 * @throws VmckptError INDEX_DAMAGED or FORMAT_UNSUPPORTED; `file` names the file in messages.
 */
export function verifyHeader(
  header: Buffer,
  spec: FileSpec,
  expected: HeaderContents & { readonly file: string },
): void {
  const { file, entryCount } = expected;
  const stored = header.readBigUInt64LE(HEADER_CHECKSUM);
  const found = xxh3(header, 0, HEADER_CHECKSUM);
  if (stored !== found)
    throw new VmckptError(
      'INDEX_DAMAGED',
      `${file}: the header's checksum is ${checksumText(found)}, ${checksumText(stored)} expected`,
    );
  const version = header.readUInt32LE(HEADER.formatVersion);
  if (version > FORMAT_VERSION) throw unsupportedVersion(file, version);
  if (!header.equals(encodeHeader(spec, expected)))
    throw new VmckptError(
      'INDEX_DAMAGED',
      `${file}: the header is not that of this ${spec.magic} file with ${entryCount} entries, as the manifest says`,
    );
}

export function unsupportedVersion(file: string, version: number): VmckptError {
  return new VmckptError(
    'FORMAT_UNSUPPORTED',
    `${file} has format version ${version}, this vmckpt reads versions up to ${FORMAT_VERSION}`,
    { hint: 'Use the vmckpt that wrote it, or a newer one.' },
  );
}
