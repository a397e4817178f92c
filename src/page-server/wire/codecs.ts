/** How the payload of a frame is written and read: JSON that a schema describes, or a fixed binary layout. */
import type * as v from 'valibot';
import { parse } from '../../util/schema.js';
import { LANES, MAX_RANGE_BYTES, type Lane, type PackRange } from '../contracts.js';
import { malformed } from './frame.js';
import { MAX_CONTROL_BYTES, MAX_FILE_NAME_BYTES } from './limits.js';

export interface Codec<T> {
  /** Longest payload. */
  readonly maxBytes: number;
  encode(body: T): Uint8Array;
  /** @throws VmckptError SOURCE_MALFORMED */
  decode(payload: Uint8Array): T;
}

export function json<S extends v.GenericSchema>(schema: S): Codec<v.InferOutput<S>> {
  return {
    maxBytes: MAX_CONTROL_BYTES,
    encode: (body) => Buffer.from(JSON.stringify(body)),
    decode: (payload) => {
      try {
        return parse<v.InferOutput<S>>(schema, JSON.parse(Buffer.from(payload).toString()));
      } catch (error) {
        throw malformed(error instanceof Error ? error.message : String(error));
      }
    },
  };
}

export interface ReadBody extends PackRange {
  readonly lane: Lane;
  /** After this time the answer is of no use; 0: it always is. */
  readonly deadlineMs: number;
}

const READ_BYTES = 40;
const READ_LAYOUT = { packId: 0, offset: 16, length: 24, deadlineMs: 28, lane: 32, reserved: 33 } as const;

export const readCodec: Codec<ReadBody> = {
  maxBytes: READ_BYTES,
  encode: ({ packId, offset, length, lane, deadlineMs }) => {
    const payload = Buffer.alloc(READ_BYTES);
    payload.write(packId, READ_LAYOUT.packId, 'hex');
    payload.writeBigUInt64LE(BigInt(offset), READ_LAYOUT.offset);
    payload.writeUInt32LE(length, READ_LAYOUT.length);
    payload.writeUInt32LE(deadlineMs, READ_LAYOUT.deadlineMs);
    payload.writeUInt8(LANES.indexOf(lane), READ_LAYOUT.lane);
    return payload;
  },
  decode: (bytes) => {
    const payload = asBuffer(bytes);
    if (payload.length !== READ_BYTES) throw malformed(`a read of ${payload.length} bytes`);
    const lane = LANES[payload.readUInt8(READ_LAYOUT.lane)];
    if (lane === undefined || payload.subarray(READ_LAYOUT.reserved).some((byte) => byte !== 0))
      throw malformed('the lane of a read');
    const length = payload.readUInt32LE(READ_LAYOUT.length);
    if (length === 0 || length > MAX_RANGE_BYTES) throw malformed(`a read of a range of ${length} bytes`);
    return {
      packId: payload.toString('hex', 0, READ_LAYOUT.offset),
      offset: safeOffset(payload.readBigUInt64LE(READ_LAYOUT.offset)),
      length,
      lane,
      deadlineMs: payload.readUInt32LE(READ_LAYOUT.deadlineMs),
    };
  },
};

/** A piece of a file, or a whole one. */
export interface FileBody {
  readonly handle: number;
  readonly file: string;
  readonly offset: number;
  readonly bytes: Uint8Array;
}

const FILE_HEAD_BYTES = 16;

/** @param maxBytes of the file's bytes in one frame */
export function fileCodec(maxBytes: number): Codec<FileBody> {
  return {
    maxBytes: FILE_HEAD_BYTES + MAX_FILE_NAME_BYTES + maxBytes,
    encode: ({ handle, file, offset, bytes }) => {
      const head = Buffer.alloc(FILE_HEAD_BYTES);
      head.writeUInt32LE(handle, 0);
      head.writeUInt32LE(file.length, 4);
      head.writeBigUInt64LE(BigInt(offset), 8);
      return Buffer.concat([head, Buffer.from(file, 'latin1'), bytes]);
    },
    decode: (payload) => {
      const head = asBuffer(payload);
      if (head.length < FILE_HEAD_BYTES) throw malformed('a piece of a file without its head');
      const end = FILE_HEAD_BYTES + head.readUInt32LE(4);
      if (end > FILE_HEAD_BYTES + MAX_FILE_NAME_BYTES || end > head.length)
        throw malformed('the name of a file');
      if (head.length - end > maxBytes)
        throw malformed(`${head.length - end} bytes of a file, at most ${maxBytes}`);
      return {
        handle: head.readUInt32LE(0),
        file: head.toString('latin1', FILE_HEAD_BYTES, end),
        offset: safeOffset(head.readBigUInt64LE(8)),
        bytes: payload.subarray(end),
      };
    },
  };
}

function safeOffset(offset: bigint): number {
  if (offset > Number.MAX_SAFE_INTEGER) throw malformed(`the offset ${offset}`);
  return Number(offset);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
