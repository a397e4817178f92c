/**
 * Cuts chunks of any size into whole elements. The consumer gets bytes and takes as many whole elements as it can. An
 * element that is cut by the chunk's end is held back, and passed again once more bytes arrive. So a consumer needs no
 * states within an element, and whole elements are never copied.
 * Invariant: no element that must be passed whole is longer than `maxElementBytes`.
 */

/**
 * Gets `bytes`, whose first byte is byte `offset` of the stream. Returns how many it took, never a part of an element.
 * The bytes are borrowed for the call.
 */
export type ElementConsumer = (bytes: Uint8Array, offset: number) => number;

export class ElementReader {
  readonly #consume: ElementConsumer;
  readonly #scratch: Uint8Array;
  #heldBytes = 0;
  #takenBytes = 0;

  constructor(maxElementBytes: number, consume: ElementConsumer) {
    this.#consume = consume;
    // The held part is shorter than an element, so there is always room for the rest of it.
    this.#scratch = new Uint8Array(2 * maxElementBytes);
  }

  get bytesSeen(): number {
    return this.#takenBytes + this.#heldBytes;
  }

  push(chunk: Uint8Array): void {
    const from = this.#heldBytes > 0 ? this.#finishHeld(chunk) : 0;
    if (from === chunk.length) return;
    const rest = from === 0 ? chunk : chunk.subarray(from);
    const taken = this.#take(rest);
    this.#scratch.set(taken === 0 ? rest : rest.subarray(taken));
    this.#heldBytes = rest.length - taken;
  }

  /** Completes the held element from the chunk; returns how many bytes of the chunk are done with. */
  #finishHeld(chunk: Uint8Array): number {
    const held = this.#heldBytes;
    const added = Math.min(chunk.length, this.#scratch.length - held);
    this.#scratch.set(added === chunk.length ? chunk : chunk.subarray(0, added), held);
    this.#heldBytes = 0;
    const taken = this.#take(this.#scratch.subarray(0, held + added));
    if (taken > 0) return taken - held;
    this.#heldBytes = held + added;
    return added;
  }

  #take(bytes: Uint8Array): number {
    const taken = this.#consume(bytes, this.#takenBytes);
    this.#takenBytes += taken;
    return taken;
  }
}
