/** Takes the bytes of a reply: never more than were asked for, and no more room than has arrived. */
import { malformed } from '../wire/frame.js';

export class ByteSink {
  readonly #maxBytes: number;
  #pieces: Uint8Array[] = [];
  #length = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** @throws VmckptError SOURCE_MALFORMED */
  readonly take = (piece: Uint8Array): void => {
    this.#length += piece.length;
    if (this.#length > this.#maxBytes)
      throw malformed(`${this.#length} bytes where at most ${this.#maxBytes} were asked for`);
    // A view of what was received would keep all of that.
    if (piece.length > 0) this.#pieces.push(piece.slice());
  };

  /** What has arrived. */
  bytes(): Uint8Array {
    const [first = new Uint8Array(0)] = this.#pieces;
    return this.#pieces.length <= 1 ? first : Buffer.concat(this.#pieces, this.#length);
  }
}
