/** Bytes of the working-set files: LEB128 numbers, and sets of numbers as the distances between them. */

/** Enough for 2⁵³ − 1. */
const MAX_VARINT_BYTES = 8;

/** Bytes that no writer of vmckpt has written. Its message completes "…: ". Never leaves codec.ts. */
export class MalformedBytes extends Error {}

export class ByteWriter {
  #bytes = Buffer.alloc(4096);
  #length = 0;

  /** A whole number from 0 to 2⁵³ − 1. */
  number(value: number): void {
    this.#reserve(MAX_VARINT_BYTES);
    let rest = value;
    for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) this.#bytes[this.#length++] = (rest % 0x80) | 0x80;
    this.#bytes[this.#length++] = rest;
  }

  u64(value: bigint): void {
    this.#reserve(8);
    this.#length = this.#bytes.writeBigUInt64LE(value, this.#length);
  }

  double(value: number): void {
    this.#reserve(8);
    this.#length = this.#bytes.writeDoubleLE(value, this.#length);
  }

  finish(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  #reserve(byteCount: number): void {
    if (this.#length + byteCount <= this.#bytes.length) return;
    this.#bytes = Buffer.concat([this.#bytes, Buffer.alloc(this.#bytes.length)]);
  }
}

/** All methods throw MalformedBytes when the bytes end too early or a number is out of range. */
export class ByteReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** `what` names the number in messages. */
  number(what: string, max: number): number {
    let value = 0;
    for (let scale = 1, count = 0; count < MAX_VARINT_BYTES; scale *= 0x80, count++) {
      const byte = this.#bytes[this.#take(1, what)]!;
      value += (byte & 0x7f) * scale;
      if (byte >= 0x80) continue;
      if (value > max) throw new MalformedBytes(`${what} is ${value}, expected at most ${max}`);
      return value;
    }
    throw new MalformedBytes(`${what} is longer than ${MAX_VARINT_BYTES} bytes`);
  }

  u64(what: string): bigint {
    return this.#bytes.readBigUInt64LE(this.#take(8, what));
  }

  double(what: string): number {
    return this.#bytes.readDoubleLE(this.#take(8, what));
  }

  end(): void {
    const left = this.#bytes.length - this.#at;
    if (left > 0) throw new MalformedBytes(`${left} bytes follow the end`);
  }

  #take(byteCount: number, what: string): number {
    const at = this.#at;
    if (at + byteCount > this.#bytes.length) throw new MalformedBytes(`the bytes end in ${what}`);
    this.#at += byteCount;
    return at;
  }
}
