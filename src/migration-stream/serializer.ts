/**
 * Writes QEMU's migration stream: small functions that give the bytes of a command or section, and
 * RecordWriter for page records. Source of the wire facts: constants.ts.
 */
import type { HostPages } from '../pages/host-pages.js';
import { PAGE_BYTES, type PlacedRamBlock, type RamLayout } from '../pages/layout.js';
import {
  COMMAND,
  MAX_DISCARD_RANGES,
  MAX_RECORD_BYTES,
  RAM_FLAG,
  RAM_SECTION_NAME,
  RAM_SECTION_VERSION,
  RECORD_HEADER_BYTES,
  SECTION,
  STREAM_MAGIC,
  STREAM_VERSION,
} from './constants.js';

export interface ByteRange {
  readonly startBytes: number;
  readonly lengthBytes: number;
}

/** The 00 that ends the sections. */
export const END_OF_STREAM = Buffer.of(SECTION.endOfStream);

/** Magic, version and the configuration section (with its type byte and subsections), verbatim. */
export function streamHeader(configuration: Uint8Array): Buffer {
  return Buffer.concat([u32(STREAM_MAGIC), u32(STREAM_VERSION), configuration]);
}

export function openReturnPath(): Buffer {
  return command(COMMAND.openReturnPath);
}

/** QEMU answers with a PONG of the same value once it has come this far. */
export function ping(value: number): Buffer {
  return command(COMMAND.ping, u32(value));
}

/** @param pageSizeBits all page sizes of the receiver's RAM blocks, or-ed: it compares them with its own */
export function postcopyAdvise(pageSizeBits: number): Buffer {
  return command(COMMAND.postcopyAdvise, u64(pageSizeBits), u64(PAGE_BYTES));
}

export function postcopyListen(): Buffer {
  return command(COMMAND.postcopyListen);
}

export function postcopyRun(): Buffer {
  return command(COMMAND.postcopyRun);
}

export function postcopyResume(): Buffer {
  return command(COMMAND.postcopyResume);
}

/** A payload that QEMU reads whole before it acts on the commands and sections in it. */
export function packaged(payload: Uint8Array): Buffer {
  return Buffer.concat([command(COMMAND.packaged, u32(payload.length)), payload]);
}

export function requestReceivedBitmap(blockName: string): Buffer {
  return command(COMMAND.receivedBitmap, counted(blockName));
}

/** Discard commands for any number of ranges of one RAM block. */
export function discardRanges(blockName: string, ranges: readonly ByteRange[]): Buffer {
  const commands: Buffer[] = [];
  for (let from = 0; from < ranges.length; from += MAX_DISCARD_RANGES) {
    const some = ranges.slice(from, from + MAX_DISCARD_RANGES);
    const pairs = some.flatMap(({ startBytes, lengthBytes }) => [u64(startBytes), u64(lengthBytes)]);
    commands.push(
      command(COMMAND.postcopyRamDiscard, Buffer.of(0), counted(blockName), Buffer.of(0), ...pairs),
    );
  }
  return Buffer.concat(commands);
}

/**
 * The section "ram" with the list of its blocks, and its footer.
 * @param hostPages after POSTCOPY_ADVISE: a block of huge pages then tells their size
 */
export function ramStart(
  ramSectionId: number,
  { ramBytes, blocks }: RamLayout,
  hostPages?: HostPages,
): Buffer {
  const instance = 0;
  return Buffer.concat([
    Buffer.of(SECTION.start),
    u32(ramSectionId),
    counted(RAM_SECTION_NAME),
    u32(instance),
    u32(RAM_SECTION_VERSION),
    u64(ramBytes + RAM_FLAG.memSize),
    ...blocks.flatMap((block) => {
      const pageBytes = hostPages?.bytesIn(block) ?? PAGE_BYTES;
      const size = pageBytes === PAGE_BYTES ? [] : [u64(pageBytes)];
      return [counted(block.name), u64(block.usedBytes), ...size];
    }),
    ramClose(ramSectionId),
  ]);
}

/** Opens a PART of "ram": page records and ramClose() follow. */
export function ramPartOpen(ramSectionId: number): Buffer {
  return Buffer.concat([Buffer.of(SECTION.part), u32(ramSectionId)]);
}

/** Opens the END of "ram": page records, if any are left, and ramClose() follow. */
export function ramEndOpen(ramSectionId: number): Buffer {
  return Buffer.concat([Buffer.of(SECTION.end), u32(ramSectionId)]);
}

/** The EOS record and the footer of an open section "ram". */
export function ramClose(ramSectionId: number): Buffer {
  return Buffer.concat([u64(RAM_FLAG.endOfSection), Buffer.of(SECTION.footer), u32(ramSectionId)]);
}

/** The section that describes the device state as JSON; it follows END_OF_STREAM. */
export function vmDescription(json: Uint8Array): Buffer {
  return Buffer.concat([Buffer.of(SECTION.description), u32(json.length), json]);
}

/**
 * Writes page records of one channel into its own buffer. A channel remembers the block of its last record, so
 * each connection needs a writer of its own, and all that is taken must go out in order.
 */
export class RecordWriter {
  readonly #layout: RamLayout;
  readonly #bufferBytes: number;
  readonly #names: readonly Buffer[];
  #buffer: Buffer;
  /** What has been written and not taken: `#buffer[#start … #end)`. */
  #start = 0;
  #end = 0;
  #block: PlacedRamBlock | undefined;

  /** `capacityBytes`: take() once this much has been written; going on beyond is possible and costs a copy. */
  constructor(layout: RamLayout, capacityBytes: number) {
    this.#layout = layout;
    this.#bufferBytes = capacityBytes + MAX_RECORD_BYTES;
    this.#names = layout.blocks.map(({ name }) => counted(name));
    this.#buffer = Buffer.allocUnsafeSlow(this.#bufferBytes);
  }

  /** Bytes written since the last take(). */
  get usedBytes(): number {
    return this.#end - this.#start;
  }

  /** A page's bytes, `bytes[start … start + PAGE_BYTES)`. */
  page(page: number, bytes: Uint8Array, start: number): void {
    const at = this.#record({ page, flag: RAM_FLAG.page, bodyBytes: PAGE_BYTES });
    this.#buffer.set(bytes.subarray(start, start + PAGE_BYTES), at);
  }

  zero(page: number): void {
    const at = this.#record({ page, flag: RAM_FLAG.zero, bodyBytes: 1 });
    this.#buffer[at] = 0;
  }

  /** A page of one repeated byte; unless that is 0 it is written in full, because QEMU 10 takes no other. */
  fill(page: number, byte: number): void {
    if (byte === 0) return this.zero(page);
    const at = this.#record({ page, flag: RAM_FLAG.page, bodyBytes: PAGE_BYTES });
    this.#buffer.fill(byte, at, at + PAGE_BYTES);
  }

  /** Ends the records of a section, or of a preempt channel. */
  eos(): void {
    this.raw(u64(RAM_FLAG.endOfSection));
  }

  raw(bytes: Uint8Array): void {
    const at = this.#reserve(bytes.length);
    this.#buffer.set(bytes, at);
  }

  /** What has been written since the last take(). It stays as it is; the writer goes on elsewhere. */
  take(): Buffer {
    const taken = this.#buffer.subarray(this.#start, this.#end);
    this.#start = this.#end;
    return taken;
  }

  /** Forgets what has been written since the last take(). */
  discard(): void {
    this.#end = this.#start;
    this.forgetBlock();
  }

  /** The next record names its block: for a receiver that has forgotten, or never knew. */
  forgetBlock(): void {
    this.#block = undefined;
  }

  /** Writes everything of a record but its body; returns where the body goes. */
  #record({ page, flag, bodyBytes }: { page: number; flag: number; bodyBytes: number }): number {
    const last = this.#block;
    const same = last !== undefined && page >= last.firstPage && page - last.firstPage < last.pageCount;
    const block = same ? last : this.#layout.blockOf(page);
    const name = same ? undefined : this.#names[block.index]!;
    const headerBytes = RECORD_HEADER_BYTES + (name === undefined ? 0 : name.length);
    const at = this.#reserve(headerBytes + bodyBytes);

    const buffer = this.#buffer;
    const pageInBlock = page - block.firstPage;
    const high = pageInBlock >>> 20;
    const low = (pageInBlock << 12) | flag | (same ? RAM_FLAG.continue : 0);
    buffer[at] = high >>> 24;
    buffer[at + 1] = high >>> 16;
    buffer[at + 2] = high >>> 8;
    buffer[at + 3] = high;
    buffer[at + 4] = low >>> 24;
    buffer[at + 5] = low >>> 16;
    buffer[at + 6] = low >>> 8;
    buffer[at + 7] = low;
    if (name !== undefined) buffer.set(name, at + RECORD_HEADER_BYTES);
    this.#block = block;
    return at + headerBytes;
  }

  /** Makes room and returns where it begins; what was not taken moves along to the new buffer. */
  #reserve(byteCount: number): number {
    if (this.#end + byteCount > this.#buffer.length) {
      const neededBytes = this.usedBytes + byteCount;
      const next = Buffer.allocUnsafeSlow(
        neededBytes <= this.#bufferBytes ? this.#bufferBytes : 2 * neededBytes,
      );
      this.#buffer.copy(next, 0, this.#start, this.#end);
      this.#buffer = next;
      this.#end -= this.#start;
      this.#start = 0;
    }
    const at = this.#end;
    this.#end += byteCount;
    return at;
  }
}

function command(number: number, ...payload: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(payload);
  const head = Buffer.alloc(5);
  head.writeUInt8(SECTION.command, 0);
  head.writeUInt16BE(number, 1);
  head.writeUInt16BE(body.length, 3);
  return Buffer.concat([head, body]);
}

/** A length byte and the name. */
function counted(name: string): Buffer {
  const bytes = Buffer.from(name, 'latin1');
  return Buffer.concat([Buffer.of(bytes.length), bytes]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
