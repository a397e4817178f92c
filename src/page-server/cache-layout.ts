/**
 * Names and numbers of the cache: where generations from elsewhere lie while they arrive, and how processes ask for what
 * is not here yet. docs/remote.md specifies every byte.
 */
import path from 'node:path';
import { checksumText, packFile } from '../checkpoint/format.js';
import type { Pack } from '../checkpoint/manifest-schema.js';
import { xxh3 } from '../native/index.js';
import { LANES, MAX_RANGE_BYTES, type Lane, type PackRange } from './contracts.js';

/** In the cache's folder. */
export const CACHE_FILES = {
  lock: 'lock',
  socket: 'fetcher.sock',
  log: 'fetcher.log',
  wants: 'wants',
  arrivals: 'arrivals',
  packs: 'packs',
  stores: 'stores',
} as const;

export const PRESENT_SUFFIX = '.present';

/** Beside the pack as long as it arrives. @param packId 32 hexadecimal digits */
export function presenceFile(packId: string): string {
  return `${packFile(packId)}${PRESENT_SUFFIX}`;
}

/** The cache that has the generation in `dir`: CACHE/stores/KEY/NAME/NUMBER. */
export function cacheOfGeneration(dir: string): string {
  return path.resolve(dir, '../../../..');
}

/** The folder in `stores`, a store with this one generation. @param manifest whole and verified */
export function storeKey(id: string, manifest: Buffer): string {
  return `${id}-${manifest.toString('latin1', manifest.length - 20, manifest.length - 4)}`;
}

/** A pack's name in `packs`: the same for generations that share it. Neither its place nor its use counts. */
export function packKey(pack: Pack): string {
  const { fileBytes, extentCount, pageCount, chunkCount, recordsRoot, chunksRoot, pageHashes } = pack;
  const content = [
    fileBytes,
    extentCount,
    pageCount,
    chunkCount,
    recordsRoot,
    chunksRoot,
    pageHashes ?? null,
  ];
  return `${pack.id}-${checksumText(xxh3(Buffer.from(JSON.stringify(content))))}`;
}

/** Of `pack-ID.present`. */
export const PRESENCE = {
  magic: 'VMCKPTpr',
  version: 1,
  /** One bit each. */
  blockBytes: 4096,
  headerBytes: 4096,
  at: {
    magic: 0,
    version: 8,
    blockBytes: 12,
    fileBytes: 16,
    packId: 24,
    bootId: 40,
    refetchCount: 64,
    refetches: 128,
  },
  refetchSlots: (4096 - 128) / 8,
} as const;

/** Bytes of the bits of a pack, and of its durable bits: whole pages. */
export function bitmapBytes(fileBytes: number): number {
  const blocks = Math.ceil(fileBytes / PRESENCE.blockBytes);
  return Math.ceil(blocks / 8 / PRESENCE.headerBytes) * PRESENCE.headerBytes;
}

/** A record of `wants`; a lane is its number in LANES. */
const WANT = { bytes: 32, at: { packId: 0, offset: 16, length: 24, lane: 28, flags: 29, zero: 30 } } as const;
const AGAIN = 1;
export const WANT_BYTES = WANT.bytes;

/** What a process wants now. */
export interface Want extends PackRange {
  readonly lane: Lane;
  /** What is here has failed its verification. */
  readonly isAgain: boolean;
}

export function encodeWant({ packId, offset, length, lane, isAgain }: Want): Buffer {
  const record = Buffer.alloc(WANT.bytes);
  record.write(packId, WANT.at.packId, 'hex');
  record.writeBigUInt64LE(BigInt(offset), WANT.at.offset);
  record.writeUInt32LE(length, WANT.at.length);
  record.writeUInt8(LANES.indexOf(lane), WANT.at.lane);
  record.writeUInt8(isAgain ? AGAIN : 0, WANT.at.flags);
  return record;
}

/** @returns undefined for a record that makes no sense */
export function decodeWant(record: Buffer): Want | undefined {
  const lane = LANES[record.readUInt8(WANT.at.lane)];
  const flags = record.readUInt8(WANT.at.flags);
  const length = record.readUInt32LE(WANT.at.length);
  const offset = Number(record.readBigUInt64LE(WANT.at.offset));
  const isValid =
    lane !== undefined &&
    (flags & ~AGAIN) === 0 &&
    record.readUInt16LE(WANT.at.zero) === 0 &&
    length > 0 &&
    length <= MAX_RANGE_BYTES &&
    Number.isSafeInteger(offset + length);
  if (!isValid) return undefined;
  return {
    packId: record.toString('hex', 0, WANT.at.offset),
    offset,
    length,
    lane,
    isAgain: flags === AGAIN,
  };
}
