/**
 * Frames: a header of 16 bytes, then as many bytes of payload as it says (docs/protocol.md). Nothing is allocated before the
 * header's checksum and the maximum of its type were checked, and then only as bytes arrive.
 */
import { VmckptError } from '../../errors.js';
import { xxh3 } from '../../native/index.js';

export const HEADER_BYTES = 16;
const CHECKSUM_AT = 12;
/** Another frame of the same reply follows. */
const MORE = 1;
/** Room for a payload at first; it doubles as bytes arrive. */
const FIRST_BYTES = 64 * 1024;

export interface FrameHead {
  /** Never 0. */
  readonly type: number;
  /** The request that is made or answered; 0 for what belongs to none. */
  readonly id: number;
  /** Whether another frame of the same reply follows. */
  readonly more: boolean;
}

export interface Frame extends FrameHead {
  readonly payload: Uint8Array;
}

export function encodeHeader({ type, id, more }: FrameHead, payloadBytes: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(type, 0);
  header.writeUInt8(more ? MORE : 0, 1);
  header.writeUInt32LE(id, 4);
  header.writeUInt32LE(payloadBytes, 8);
  header.writeUInt32LE(checksumOf(header), CHECKSUM_AT);
  return header;
}

/** The header and the payload in one piece: for small ones. */
export function encodeFrame(head: FrameHead, payload: Uint8Array): Buffer {
  return Buffer.concat([encodeHeader(head, payload.length), payload]);
}

/** What the other side sent is not the protocol. */
export function malformed(what: string): VmckptError {
  return new VmckptError('SOURCE_MALFORMED', `malformed message: ${what}`, {
    hint: 'The other end is no vmckpt page server or client, or the connection is damaged.',
  });
}

interface Pending {
  readonly head: FrameHead;
  readonly length: number;
  /** Has room for `length` bytes, or for less as long as fewer have arrived. */
  bytes: Uint8Array;
  filled: number;
}

/** Takes a byte stream apart. After an error it is of no more use. */
export class FrameReader {
  readonly #maxPayloadBytes: (type: number) => number | undefined;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerFilled = 0;
  #pending: Pending | undefined;

  /** @param maxPayloadBytes of a type; undefined for one that this side does not take */
  constructor(maxPayloadBytes: (type: number) => number | undefined) {
    this.#maxPayloadBytes = maxPayloadBytes;
  }

  /** Whether a frame has begun that is not complete. */
  get isWithinFrame(): boolean {
    return this.#headerFilled > 0 || this.#pending !== undefined;
  }

  /**
   * The frames that `chunk` completes. Their payloads may be views of it.
   * @throws VmckptError SOURCE_MALFORMED
   */
  *push(chunk: Uint8Array): Generator<Frame> {
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#pending === undefined) {
        rest = this.#takeHeader(rest);
        if (this.#headerFilled < HEADER_BYTES) return;
        this.#headerFilled = 0;
        const { head, length } = this.#decodeHeader();
        if (rest.length >= length) {
          yield { ...head, payload: rest.subarray(0, length) };
          rest = rest.subarray(length);
          continue;
        }
        const bytes = new Uint8Array(Math.min(length, FIRST_BYTES));
        this.#pending = { head, length, bytes, filled: 0 };
      }
      const frame = this.#pending;
      const taken = Math.min(rest.length, frame.length - frame.filled);
      append(frame, rest.subarray(0, taken));
      rest = rest.subarray(taken);
      if (frame.filled < frame.length) return;
      this.#pending = undefined;
      yield { ...frame.head, payload: frame.bytes.subarray(0, frame.length) };
    }
  }

  #takeHeader(bytes: Uint8Array): Uint8Array {
    const taken = Math.min(bytes.length, HEADER_BYTES - this.#headerFilled);
    this.#header.set(bytes.subarray(0, taken), this.#headerFilled);
    this.#headerFilled += taken;
    return bytes.subarray(taken);
  }

  #decodeHeader(): { readonly head: FrameHead; readonly length: number } {
    const header = this.#header;
    if (header.readUInt32LE(CHECKSUM_AT) !== checksumOf(header)) throw malformed('the checksum of a header');
    const [type, flags] = [header.readUInt8(0), header.readUInt8(1)];
    if ((flags & ~MORE) !== 0 || header.readUInt16LE(2) !== 0) throw malformed('reserved bits are set');
    const maxBytes = this.#maxPayloadBytes(type);
    if (maxBytes === undefined) throw malformed(`a frame of type ${type}`);
    const length = header.readUInt32LE(8);
    if (length > maxBytes)
      throw malformed(`a frame of type ${type} with ${length} bytes, at most ${maxBytes} allowed`);
    return { head: { type, id: header.readUInt32LE(4), more: flags === MORE }, length };
  }
}

function append(frame: Pending, bytes: Uint8Array): void {
  const needed = frame.filled + bytes.length;
  if (needed > frame.bytes.length) {
    const larger = new Uint8Array(Math.min(frame.length, Math.max(needed, frame.bytes.length * 2)));
    larger.set(frame.bytes.subarray(0, frame.filled));
    frame.bytes = larger;
  }
  frame.bytes.set(bytes, frame.filled);
  frame.filled = needed;
}

/** Of the header without its checksum. */
function checksumOf(header: Uint8Array): number {
  return Number(xxh3(header, 0, CHECKSUM_AT) & 0xffff_ffffn);
}
