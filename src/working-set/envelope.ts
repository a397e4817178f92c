/**
 * The header that the files of a working set share. It is like the checkpoint's (docs/format.md), but 64 bytes long.
 * Its own checksum makes it trustworthy before the body is verified:
 *
 *     0 magic, 8 bytes | 8 version, u32 | 12 header bytes, u32 | 16 "xxh3-64", 16 bytes, zero-padded
 *     32 size of the body, u64 | 40 tie, u64 | 48 checksum of the body, u64 | 56 checksum of bytes 0–55, u64
 */
import { CHECKSUM_ALGORITHM, checksumText } from '../checkpoint/format.js';
import { xxh3 } from '../native/index.js';

export const HEADER_BYTES = 64;
export const AT = {
  magic: 0,
  version: 8,
  headerBytes: 12,
  algorithm: 16,
  bodySize: 32,
  tie: 40,
  bodyChecksum: 48,
  checksum: 56,
} as const;

export interface Envelope {
  /** 8 characters. */
  readonly magic: string;
  readonly version: number;
}

/** `unsupported`: intact, and written by a newer vmckpt, so it must stay as it is. */
export type Opened<T> =
  | { readonly status: 'ok'; readonly value: T }
  | { readonly status: 'damaged' | 'unsupported'; readonly problem: string };

export interface Contents {
  /** In the units that the file counts. */
  readonly size: number;
  /** Identifies what the file belongs to; 0 if its name does that. */
  readonly tie?: bigint;
  /** Verified together with the header. */
  readonly body: Uint8Array;
}

export function headerOf({ magic, version }: Envelope, { size, tie = 0n, body }: Contents): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(magic, AT.magic, 'latin1');
  header.writeUInt32LE(version, AT.version);
  header.writeUInt32LE(HEADER_BYTES, AT.headerBytes);
  header.write(CHECKSUM_ALGORITHM, AT.algorithm, 'latin1');
  header.writeBigUInt64LE(BigInt(size), AT.bodySize);
  header.writeBigUInt64LE(tie, AT.tie);
  header.writeBigUInt64LE(xxh3(body), AT.bodyChecksum);
  header.writeBigUInt64LE(xxh3(header, 0, AT.checksum), AT.checksum);
  return header;
}

export function seal(envelope: Envelope, body: Uint8Array, tie = 0n): Buffer {
  return Buffer.concat([headerOf(envelope, { size: body.length, tie, body }), body]);
}

/** The verified body. Never throws. */
export function unseal({ magic, version }: Envelope, bytes: Buffer, tie = 0n): Opened<Buffer> {
  if (bytes.length < HEADER_BYTES) return damaged(`${bytes.length} bytes are too few for a header`);
  const stored = bytes.readBigUInt64LE(AT.checksum);
  const found = xxh3(bytes, 0, AT.checksum);
  if (stored !== found)
    return damaged(`the header's checksum is ${checksumText(found)}, expected ${checksumText(stored)}`);
  const foundMagic = bytes.toString('latin1', AT.magic, AT.version);
  if (foundMagic !== magic) return damaged(`it begins with ${JSON.stringify(foundMagic)}, expected ${magic}`);
  const foundVersion = bytes.readUInt32LE(AT.version);
  if (foundVersion < version) return damaged(`it has version ${foundVersion}, which is no longer supported`);
  if (foundVersion > version)
    return {
      status: 'unsupported',
      problem: `it has version ${foundVersion}, this vmckpt reads version ${version}`,
    };
  const body = bytes.subarray(HEADER_BYTES);
  if (!bytes.equals(seal({ magic, version }, body, tie)))
    return damaged(`its header does not match its body of ${body.length} bytes`);
  return { status: 'ok', value: body };
}

function damaged(problem: string): Opened<never> {
  return { status: 'damaged', problem };
}
