/**
 * The vocabulary of QEMU's migration stream and its return path. All integers on the wire are big-endian.
 * Source: QEMU's documentation of migration, and streams of QEMU 7.2 and 10.0 taken apart.
 */
import { PAGE_BYTES } from '../pages/layout.js';

export const STREAM_MAGIC = 0x5145_564d;
export const STREAM_VERSION = 3;
export const RAM_SECTION_NAME = 'ram';
export const RAM_SECTION_VERSION = 4;

/** First byte of everything at the top level of the stream. */
export const SECTION = {
  endOfStream: 0x00,
  start: 0x01,
  part: 0x02,
  end: 0x03,
  full: 0x04,
  subsection: 0x05,
  description: 0x06,
  configuration: 0x07,
  command: 0x08,
  footer: 0x7e,
} as const;

/** Low bits of a RAM record's first eight bytes; the high bits are the byte offset within the block. */
export const RAM_FLAG = {
  zero: 0x02,
  memSize: 0x04,
  page: 0x08,
  endOfSection: 0x10,
  /** The same block as the previous page record of this channel: no name follows. */
  continue: 0x20,
  multifdFlush: 0x200,
} as const;

/** RAM records that only an optional capability produces, and the capability's name. */
export const RAM_FLAG_CAPABILITIES = [
  { flag: 0x40, capability: 'xbzrle' },
  { flag: 0x80, capability: 'rdma-pin-all' },
  { flag: 0x100, capability: 'compress' },
] as const;

export const COMMAND = {
  openReturnPath: 1,
  ping: 2,
  postcopyAdvise: 3,
  postcopyListen: 4,
  postcopyRun: 5,
  postcopyRamDiscard: 6,
  packaged: 7,
  postcopyResume: 9,
  receivedBitmap: 10,
  switchoverStart: 11,
} as const;

export const RETURN_MESSAGE = {
  shut: 1,
  pong: 2,
  requestPagesOfBlock: 3,
  requestPages: 4,
  receivedBitmap: 5,
  resumeAck: 6,
  switchoverAck: 7,
} as const;

/** Most ranges that QEMU accepts in one discard command. */
export const MAX_DISCARD_RANGES = 12;

/** Closes a received-bitmap: 0x0123456789abcdef in two halves. */
export const BITMAP_END_MARK = { high: 0x0123_4567, low: 0x89ab_cdef } as const;

/** Names travel as one length byte and that many bytes. */
export const MAX_NAME_BYTES = 255;

/** Size of a RAM record's offset and flags. */
export const RECORD_HEADER_BYTES = 8;

/** The longest RAM record: header, block name, a whole page. */
export const MAX_RECORD_BYTES = RECORD_HEADER_BYTES + 1 + MAX_NAME_BYTES + PAGE_BYTES;
