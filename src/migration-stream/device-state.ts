/**
 * The tail of a saved stream: the devices' FULL sections, 00, and usually 06 be32 length JSON. Device sections carry no
 * length. So the tail is collected as a whole and parsed from its end, where the section footers (7e, be32 id) and the
 * description's length are unambiguous. Zeros after that are padding, from a block device or from dd.
 */
import { VmckptError } from '../errors.js';
import { be32, malformed } from './bytes.js';
import { SECTION, STREAM_MAGIC, STREAM_VERSION } from './constants.js';

/** A q35 machine has 0.1–0.7 MB of device state; emulated GPUs keep their video memory elsewhere. */
export const MAX_DEVICE_STATE_BYTES = 256 * 2 ** 20;
const FIRST_ALLOCATION_BYTES = 2 ** 20;
const FOOTER_BYTES = 5;
const OPENING_BRACE = 0x7b;
const CLOSING_BRACE = 0x7d;

export interface StreamTail {
  /** FULL sections, without the 00 that closes them. */
  readonly deviceState: Buffer;
  /** JSON text; empty if the stream has none. */
  readonly description: Buffer;
}

export class TailCollector {
  readonly #maxBytes: number;
  #buffer = Buffer.alloc(0);
  #usedBytes = 0;
  /** Zeros after those bytes. They are kept only when something else follows, so that padding may have any length. */
  #zeroBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** @throws VmckptError STREAM_MALFORMED when the tail outgrows its limit; `offset` is the stream's. */
  add(bytes: Uint8Array, offset: number): void {
    let dataBytes = bytes.length;
    while (dataBytes > 0 && bytes[dataBytes - 1] === 0) dataBytes--;
    if (dataBytes > 0) this.#keep(bytes.subarray(0, dataBytes), offset);
    this.#zeroBytes += bytes.length - dataBytes;
  }

  #keep(bytes: Uint8Array, offset: number): void {
    const start = this.#usedBytes + this.#zeroBytes;
    const neededBytes = start + bytes.length;
    if (neededBytes > this.#maxBytes)
      throw malformed({
        where: 'migration stream',
        offset,
        expected: `at most ${this.#maxBytes} bytes of device state`,
        actual: `${neededBytes} and no end`,
      });
    if (neededBytes > this.#buffer.length) this.#grow(neededBytes);
    this.#buffer.fill(0, this.#usedBytes, start);
    this.#buffer.set(bytes, start);
    this.#usedBytes = neededBytes;
    this.#zeroBytes = 0;
  }

  /** @throws VmckptError STREAM_TRUNCATED unless the bytes end like a finished stream */
  split(): StreamTail {
    const tail = this.#buffer.subarray(0, this.#usedBytes);
    const described = descriptionStart(tail);
    if (described !== undefined)
      return { deviceState: tail.subarray(0, described - 6), description: tail.subarray(described) };
    const end = sectionsEnd(tail, this.#zeroBytes);
    if (end !== undefined)
      return {
        deviceState: Buffer.concat([tail, Buffer.alloc(end - tail.length)]),
        description: Buffer.alloc(0),
      };
    throw new VmckptError(
      'STREAM_TRUNCATED',
      `the device state at the end of the migration stream is cut off after ${tail.length} bytes`,
    );
  }

  #grow(neededBytes: number): void {
    const doubled = Math.max(FIRST_ALLOCATION_BYTES, 2 * this.#buffer.length, neededBytes);
    const grown = Buffer.allocUnsafeSlow(Math.min(doubled, this.#maxBytes));
    grown.set(this.#buffer.subarray(0, this.#usedBytes));
    this.#buffer = grown;
  }
}

const HEADER_BYTES = 8;
/** QEMU requires a description after the devices, but ignores its content. */
const NO_DESCRIPTION = '{}';

/**
 * What xen-save-devices-state writes: the stream's header, the devices' FULL sections, 00.
 * @throws VmckptError STREAM_TRUNCATED
 */
export function splitSavedDevices(saved: Buffer): StreamTail {
  const end = saved.length - 1;
  const begins =
    saved.length > HEADER_BYTES && be32(saved, 0) === STREAM_MAGIC && be32(saved, 4) === STREAM_VERSION;
  if (begins && saved[HEADER_BYTES] === SECTION.full && closesSections(saved, end) && saved[end] === 0)
    return { deviceState: saved.subarray(HEADER_BYTES, end), description: Buffer.from(NO_DESCRIPTION) };
  throw new VmckptError('STREAM_TRUNCATED', `the device state is cut off after ${saved.length} bytes`);
}

/** The start of the JSON that fills the rest of the tail, after `00 06 be32 length`. */
function descriptionStart(tail: Buffer): number | undefined {
  if (tail[tail.length - 1] !== CLOSING_BRACE) return undefined;
  for (let at = tail.length - 1; at >= 6; at--) {
    if (
      tail[at] === OPENING_BRACE &&
      tail[at - 5] === SECTION.description &&
      tail[at - 6] === SECTION.endOfStream &&
      be32(tail, at - 4) === tail.length - at &&
      closesSections(tail, at - 6)
    )
      return at;
  }
  return undefined;
}

/**
 * The position of the 00 that closes the sections; `zeroBytes` zeros follow the tail's last other byte. The id in the
 * last footer may end with zeros as well, so the section's header decides.
 */
function sectionsEnd(tail: Buffer, zeroBytes: number): number | undefined {
  const ends = [1, 2, 3, 4, 5]
    .map((taken) => tail.length - taken)
    .filter((at) => tail[at] === SECTION.footer)
    .map((at) => at + FOOTER_BYTES)
    .filter((end) => end >= tail.length && end < tail.length + zeroBytes);
  if (tail.length === 0 && zeroBytes > 0) return 0;
  return (
    ends.findLast((end) => isOpened(tail, end)) ?? ends.find((end) => end + 1 === tail.length + zeroBytes)
  );
}

/** Whether a section whose id ends at `end` begins somewhere before it. */
function isOpened(tail: Buffer, end: number): boolean {
  const header = Buffer.alloc(FOOTER_BYTES);
  header[0] = SECTION.full;
  tail.copy(header, 1, end - FOOTER_BYTES + 1);
  return tail.subarray(0, end - FOOTER_BYTES).includes(header);
}

/** Whether a 00 at `end` follows a section's footer, or no section at all. */
function closesSections(tail: Buffer, end: number): boolean {
  return end === 0 || (end > FOOTER_BYTES && tail[end - FOOTER_BYTES] === SECTION.footer);
}
