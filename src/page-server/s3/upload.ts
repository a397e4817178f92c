/**
 * A file that is put piece by piece. Whole parts are sent as they fill, several at once, and stay for another attempt; the
 * object appears with finish(). One that fits in a single part is sent then.
 */
import { VmckptError } from '../../errors.js';
import type { Bucket, UploadedPart } from './bucket.js';

/** What an engine takes as a part, apart from the last one. */
export const MIN_PART_BYTES = 5 << 20;
export const DEFAULT_PART_BYTES = 8 << 20;
const MAX_PARTS = 10_000;
/** Those after these are larger, so that MAX_PARTS are enough for a terabyte. */
const SMALL_PARTS = 1_000;
const LARGER = 16;
const PARTS_AT_ONCE = 4;

export class Upload {
  readonly #bucket: Bucket;
  readonly #key: string;
  readonly #partBytes: number;
  readonly #parts: UploadedPart[];
  readonly #sending = new Set<Promise<void>>();
  #uploadId: string | undefined;
  #pieces: Buffer[] = [];
  #pieceBytes = 0;
  #partsBytes: number;
  #partCount: number;
  #isFinished = false;
  #failure: Error | undefined;

  private constructor(
    bucket: Bucket,
    key: string,
    begun: { partBytes: number; uploadId: string | undefined; parts: UploadedPart[] },
  ) {
    this.#bucket = bucket;
    this.#key = key;
    this.#partBytes = begun.partBytes;
    this.#uploadId = begun.uploadId;
    this.#parts = begun.parts;
    this.#partCount = begun.parts.length;
    this.#partsBytes = sumBytes(begun.parts);
  }

  /** Goes on with the parts that are there. */
  static async open(bucket: Bucket, key: string, partBytes: number): Promise<Upload> {
    const [latest] = (await bucket.uploads(key))
      .filter((upload) => upload.key === key)
      .sort((a, b) => b.begunMs - a.begunMs);
    const there = latest === undefined ? [] : await bucket.parts(key, latest.uploadId);
    const parts = there.slice(0, wholeParts(there, partBytes));
    return new Upload(bucket, key, { partBytes, uploadId: latest?.uploadId, parts });
  }

  /** What was put so far, in earlier attempts, too. */
  get bytes(): number {
    return this.#partsBytes + this.#pieceBytes;
  }

  /** @throws VmckptError FAILED for more than an object can have, and as Bucket */
  async append(bytes: Uint8Array): Promise<void> {
    if (this.#isFinished) throw new VmckptError('FAILED', `${this.#key} is complete`);
    for (let at = 0; at < bytes.length;) {
      const room = partBytesAt(this.#partCount + 1, this.#partBytes) - this.#pieceBytes;
      const piece = Buffer.from(bytes.subarray(at, at + room));
      this.#pieces.push(piece);
      this.#pieceBytes += piece.length;
      at += piece.length;
      if (piece.length === room) await this.#sendPart();
    }
  }

  /** Makes the object appear. Does nothing if it has. */
  async finish(): Promise<void> {
    if (this.#isFinished) return;
    if (this.#partCount === 0) await this.#bucket.write(this.#key, Buffer.concat(this.#pieces));
    else await this.#finishParts();
    this.#isFinished = true;
    this.#pieces = [];
  }

  /** Waits for the parts that are under way. */
  async settle(): Promise<void> {
    await Promise.all(this.#sending);
  }

  async #finishParts(): Promise<void> {
    if (this.#pieceBytes > 0) await this.#sendPart();
    await this.settle();
    if (this.#failure !== undefined) throw this.#failure;
    const parts = this.#parts.sort((a, b) => a.number - b.number);
    const isEnded = await this.#bucket.endUpload(this.#key, this.#uploadId!, parts);
    // Then another push of the same file was faster, or the answer to an earlier request was lost.
    if (!isEnded && (await this.#bucket.find(this.#key)) === undefined)
      throw new VmckptError('STORE_LOCKED', `the upload of ${this.#key} was ended by others`, {
        hint: 'Push again.',
      });
  }

  /** Returns as soon as another one may be filled. */
  async #sendPart(): Promise<void> {
    const number = ++this.#partCount;
    if (number > MAX_PARTS)
      throw new VmckptError(
        'FAILED',
        `${this.#key} has more than the ${this.#partsBytes} bytes of ${MAX_PARTS} parts`,
      );
    const content = Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#pieceBytes = 0;
    this.#partsBytes += content.length;
    const uploadId = (this.#uploadId ??= await this.#bucket.beginUpload(this.#key));
    while (this.#sending.size >= PARTS_AT_ONCE) await Promise.race(this.#sending);
    if (this.#failure !== undefined) throw this.#failure;
    const sending = this.#bucket.writePart({ key: this.#key, uploadId, number }, content).then(
      (part) => void this.#parts.push(part),
      (error: Error) => void (this.#failure ??= error),
    );
    this.#sending.add(sending);
    void sending.finally(() => this.#sending.delete(sending));
  }
}

function partBytesAt(number: number, partBytes: number): number {
  return number <= SMALL_PARTS ? partBytes : partBytes * LARGER;
}

/** How many of them, from the first one, have the length that they have when they are not the last one. */
function wholeParts(parts: readonly UploadedPart[], partBytes: number): number {
  const end = parts.findIndex(
    ({ number, bytes }, at) => number !== at + 1 || bytes !== partBytesAt(number, partBytes),
  );
  return end < 0 ? parts.length : end;
}

function sumBytes(parts: readonly UploadedPart[]): number {
  return parts.reduce((sum, { bytes }) => sum + bytes, 0);
}
