/**
 * The numbers of checkpoint format 1 and the headers of its binary files. docs/format.md specifies every byte;
 * this file and index-*.ts are the only code that knows them. Everything is little-endian, like every host that
 * runs vmckpt, so that index chunks are used in place as typed arrays.
 */
import { VmckptError } from '../errors.js';
import { xxh3 } from '../native/index.js';
import { PAGE_KINDS } from '../pages/contracts.js';

export const FORMAT_VERSION = 1;
export const CHECKSUM_ALGORITHM = 'xxh3-64';
/** May lie beside the files of a generation; src/working-set/hot-pack.ts makes it. */
export const HOT_PACK_FILE = 'hot-pack';

export const GENERATION_FILES = {
  manifest: 'manifest.json',
  deviceState: 'device-state',
  pageIndex: 'page-index',
  extentIndex: 'extent-index',
  pages: 'pages',
} as const;

/** A whole page, so that what follows can be mapped and is aligned. */
export const HEADER_BYTES = 4096;
export const CHUNK_BYTES = 64 * 1024;
const CHECKSUM_BYTES = 8;

/** More pages together compress better; stored raw they only take longer to read for one of them. */
export const DEFAULT_EXTENT_PAGES = { compressed: 8, raw: 4 } as const;

export interface FileSpec {
  readonly magic: string;
  readonly entryBytes: number;
  readonly chunkBytes: number;
}

export interface IndexSpec extends FileSpec {
  readonly entriesPerChunk: number;
  /** 32-bit words of one entry. */
  readonly entryWords: number;
}

export const PAGES_SPEC: FileSpec = { magic: 'VMCKPTpg', entryBytes: 0, chunkBytes: 0 };
export const PAGE_INDEX_SPEC = indexSpec('VMCKPTpi', 8);
export const EXTENT_INDEX_SPEC = indexSpec('VMCKPTei', 32);

function indexSpec(magic: string, entryBytes: number): IndexSpec {
  return {
    magic,
    entryBytes,
    chunkBytes: CHUNK_BYTES,
    entriesPerChunk: CHUNK_BYTES / entryBytes,
    entryWords: entryBytes / 4,
  };
}

/** Of an index file: a header, whole chunks, and a checksum for each of them. */
export function indexBytes({ entriesPerChunk }: IndexSpec, entryCount: number): number {
  const chunkCount = Math.ceil(entryCount / entriesPerChunk);
  return HEADER_BYTES + chunkCount * (CHUNK_BYTES + CHECKSUM_BYTES);
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
  /** From the start of the file `pages`. */
  readonly offset: number;
  readonly storedBytes: number;
  readonly pageCount: number;
  readonly codec: number;
  readonly checksum: bigint;
}

/** Reads record `at` (in words) of an extent-index chunk. */
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
const HEADER_CHECKSUM = HEADER_BYTES - 8;

export function encodeHeader(spec: FileSpec, entryCount: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(spec.magic, HEADER.magic, 'latin1');
  header.writeUInt32LE(FORMAT_VERSION, HEADER.formatVersion);
  header.writeUInt32LE(HEADER_BYTES, HEADER.headerBytes);
  header.write(CHECKSUM_ALGORITHM, HEADER.algorithm, 'latin1');
  header.writeUInt32LE(spec.entryBytes, HEADER.entryBytes);
  header.writeUInt32LE(spec.chunkBytes, HEADER.chunkBytes);
  header.writeBigUInt64LE(BigInt(entryCount), HEADER_ENTRY_COUNT);
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
  expected: { entryCount: number; file: string },
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
  if (version !== FORMAT_VERSION) throw unsupportedVersion(file, version);
  if (!header.equals(encodeHeader(spec, entryCount)))
    throw new VmckptError(
      'INDEX_DAMAGED',
      `${file}: the header is not that of a ${spec.magic} file with ${entryCount} entries, as the manifest says`,
    );
}

export function unsupportedVersion(file: string, version: number): VmckptError {
  return new VmckptError(
    'FORMAT_UNSUPPORTED',
    `${file} has format version ${version}, this vmckpt reads version ${FORMAT_VERSION}`,
    { hint: 'Use the vmckpt that wrote it, or a newer one.' },
  );
}
