/**
 * Push parser of the return path: what an incoming QEMU says to the source of its migration. No I/O.
 * Source of the wire facts: constants.ts.
 */
import { PAGE_BYTES, type PlacedRamBlock, type RamLayout } from '../pages/layout.js';
import { be16, be32, be64, hex, latin1, malformed } from './bytes.js';
import { BITMAP_END_MARK, MAX_NAME_BYTES, RETURN_MESSAGE } from './constants.js';
import { ElementReader } from './element-reader.js';

export type ReturnPathMessage =
  /** QEMU has everything (status 0) or gave up. */
  | { readonly type: 'shut'; readonly status: number }
  | { readonly type: 'pong'; readonly value: number }
  /** A vCPU or device waits for `pageCount` pages from flat page number `page` on. */
  | { readonly type: 'requestPages'; readonly page: number; readonly pageCount: number }
  /** Little-endian, a bit per page of the block, bit 0 of byte 0 first; padded to 64 bits. */
  | { readonly type: 'receivedBitmap'; readonly blockName: string; readonly bitmap: Buffer }
  | { readonly type: 'resumeAck'; readonly value: number }
  | { readonly type: 'switchoverAck' };

const HEADER_BYTES = 4;
const RANGE_BYTES = 12;
const END_MARK_BYTES = 8;
const MAX_PAYLOAD_BYTES = RANGE_BYTES + 1 + MAX_NAME_BYTES;

/** Payload bytes of each message type: fixed, or at least these and a name. */
const PAYLOADS: Readonly<Record<number, { fixedBytes: number; named?: true }>> = {
  [RETURN_MESSAGE.shut]: { fixedBytes: 4 },
  [RETURN_MESSAGE.pong]: { fixedBytes: 4 },
  [RETURN_MESSAGE.requestPagesOfBlock]: { fixedBytes: RANGE_BYTES, named: true },
  [RETURN_MESSAGE.requestPages]: { fixedBytes: RANGE_BYTES },
  [RETURN_MESSAGE.receivedBitmap]: { fixedBytes: 0, named: true },
  [RETURN_MESSAGE.resumeAck]: { fixedBytes: 4 },
  [RETURN_MESSAGE.switchoverAck]: { fixedBytes: 0 },
};

/** The raw bytes that follow a received-bitmap message. */
interface IncomingBitmap {
  readonly block: PlacedRamBlock;
  /** Undefined until the size has been read. */
  bitmap: Buffer | undefined;
  filledBytes: number;
}

export class ReturnPathParser {
  readonly #layout: RamLayout;
  readonly #onMessage: (message: ReturnPathMessage) => void;
  readonly #reader = new ElementReader(HEADER_BYTES + MAX_PAYLOAD_BYTES, (bytes, offset) =>
    this.#consume(bytes, offset),
  );
  #failure: Error | undefined;
  #base = 0;
  #requestBlock: PlacedRamBlock | undefined;
  #incoming: IncomingBitmap | undefined;

  constructor(layout: RamLayout, onMessage: (message: ReturnPathMessage) => void) {
    this.#layout = layout;
    this.#onMessage = onMessage;
  }

  /** After a recovery QEMU names the block again; a request that does not is then an error. */
  forgetRequestBlock(): void {
    this.#requestBlock = undefined;
  }

  /**
   * Takes the next bytes; calls `onMessage` for each message that is whole.
   * @throws VmckptError STREAM_MALFORMED, and whatever `onMessage` throws; after that the same again and again.
   */
  push(chunk: Uint8Array): void {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      this.#reader.push(chunk);
    } catch (error) {
      this.#failure = error as Error;
      throw error;
    }
  }

  #consume(bytes: Uint8Array, offset: number): number {
    this.#base = offset;
    let at = 0;
    for (;;) {
      const next = this.#incoming ? this.#bitmapPiece(bytes, at, this.#incoming) : this.#message(bytes, at);
      if (next === at) return at;
      at = next;
    }
  }

  #message(bytes: Uint8Array, at: number): number {
    if (bytes.length - at < HEADER_BYTES) return at;
    const type = be16(bytes, at);
    const payloadBytes = be16(bytes, at + 2);
    const payload = PAYLOADS[type];
    if (payload === undefined) this.#fail(at, 'a message type 1–7', `${type}`);
    const { fixedBytes, named = false } = payload;
    const mostBytes = named ? fixedBytes + 1 + MAX_NAME_BYTES : fixedBytes;
    if (payloadBytes < fixedBytes + (named ? 1 : 0) || payloadBytes > mostBytes)
      this.#fail(at + 2, `${fixedBytes}–${mostBytes} bytes of message type ${type}`, `${payloadBytes}`);

    const body = at + HEADER_BYTES;
    const next = body + payloadBytes;
    if (bytes.length < next) return at;
    if (named) {
      const block = this.#namedBlock(bytes, { at: body + fixedBytes, end: next });
      if (type === RETURN_MESSAGE.receivedBitmap)
        this.#incoming = { block, bitmap: undefined, filledBytes: 0 };
      else this.#requestBlock = block;
    }
    this.#deliver(type, bytes, body);
    return next;
  }

  #deliver(type: number, bytes: Uint8Array, body: number): void {
    switch (type) {
      case RETURN_MESSAGE.shut:
        return this.#onMessage({ type: 'shut', status: be32(bytes, body) });
      case RETURN_MESSAGE.pong:
        return this.#onMessage({ type: 'pong', value: be32(bytes, body) });
      case RETURN_MESSAGE.requestPagesOfBlock:
      case RETURN_MESSAGE.requestPages:
        return this.#requestPages(bytes, body);
      case RETURN_MESSAGE.resumeAck:
        return this.#onMessage({ type: 'resumeAck', value: be32(bytes, body) });
      case RETURN_MESSAGE.switchoverAck:
        return this.#onMessage({ type: 'switchoverAck' });
    }
  }

  #requestPages(bytes: Uint8Array, at: number): void {
    const block = this.#requestBlock;
    if (block === undefined) this.#fail(at, 'a request that names its RAM block', 'one that does not');
    const startBytes = be64(bytes, at);
    const lengthBytes = be32(bytes, at + 8);
    const aligned = startBytes % PAGE_BYTES === 0 && lengthBytes % PAGE_BYTES === 0;
    if (!aligned || lengthBytes === 0 || startBytes + lengthBytes > block.usedBytes)
      this.#fail(
        at,
        `a request for whole pages within the ${block.usedBytes} bytes of "${block.name}"`,
        `${lengthBytes} bytes from ${startBytes} on`,
      );
    const page = block.firstPage + startBytes / PAGE_BYTES;
    this.#onMessage({ type: 'requestPages', page, pageCount: lengthBytes / PAGE_BYTES });
  }

  #namedBlock(bytes: Uint8Array, { at, end }: { at: number; end: number }): PlacedRamBlock {
    const nameBytes = bytes[at]!;
    if (at + 1 + nameBytes !== end)
      this.#fail(at, `a name of ${end - at - 1} bytes, as the message's length says`, `${nameBytes}`);
    const name = latin1(bytes, at + 1, nameBytes);
    const block = this.#layout.byName(name);
    if (block === undefined) this.#fail(at, 'a RAM block of this VM', JSON.stringify(name));
    return block;
  }

  #bitmapPiece(bytes: Uint8Array, at: number, incoming: IncomingBitmap): number {
    const { block, bitmap, filledBytes } = incoming;
    if (bitmap === undefined) {
      if (bytes.length - at < 8) return at;
      incoming.bitmap = Buffer.alloc(this.#bitmapBytes(bytes, at, block));
      return at + 8;
    }
    if (filledBytes < bitmap.length) {
      const piece = bytes.subarray(at, at + bitmap.length - filledBytes);
      bitmap.set(piece, filledBytes);
      incoming.filledBytes += piece.length;
      return at + piece.length;
    }
    if (bytes.length - at < END_MARK_BYTES) return at;
    const high = be32(bytes, at);
    const low = be32(bytes, at + 4);
    if (high !== BITMAP_END_MARK.high || low !== BITMAP_END_MARK.low)
      this.#fail(at, "a bitmap's end mark", `${hex(high)} ${hex(low)}`);
    this.#incoming = undefined;
    this.#onMessage({ type: 'receivedBitmap', blockName: block.name, bitmap });
    return at + END_MARK_BYTES;
  }

  /** The size as sent; QEMU may round up by a word more than needed. */
  #bitmapBytes(bytes: Uint8Array, at: number, block: PlacedRamBlock): number {
    const size = be64(bytes, at);
    const leastBytes = Math.ceil(block.pageCount / 64) * 8;
    if (size < leastBytes || size > leastBytes + 8)
      this.#fail(at, `a bitmap of ${leastBytes} bytes for "${block.name}"`, `${size}`);
    return size;
  }

  #fail(at: number, expected: string, actual: string): never {
    throw malformed({ where: 'return path', offset: this.#base + at, expected, actual });
  }
}
