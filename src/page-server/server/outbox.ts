/** What goes out on a connection: whole frames, in order, with room awaited for; a peer that takes nothing is noticed. */
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { VmckptError } from '../../errors.js';
import { toWire } from '../wire/errors.js';
import { encodeFrame, encodeHeader, type FrameHead } from '../wire/frame.js';
import { REPLY_TYPES, errorCodec } from '../wire/messages.js';

/** A peer that was refused has so long to close its side, so that it reads why. */
const LINGER_MS = 2000;

export class Outbox {
  readonly #stream: Duplex;
  #room: Promise<void> | undefined;
  #waiting = 0;
  #lastTakenMs = performance.now();

  constructor(stream: Duplex) {
    this.#stream = stream;
  }

  /** Since when the peer has taken nothing of what waits for it, in ms; 0 when nothing waits. */
  stalledMs(nowMs: number): number {
    return this.#waiting === 0 ? 0 : nowMs - this.#lastTakenMs;
  }

  /** Does nothing on a connection that is closed. */
  send(head: FrameHead, payload: Uint8Array): void {
    const stream = this.#stream;
    if (!stream.writable) return;
    if (this.#waiting === 0) this.#lastTakenMs = performance.now();
    this.#waiting++;
    stream.cork();
    stream.write(encodeHeader(head, payload.length));
    stream.write(payload, () => {
      this.#waiting--;
      this.#lastTakenMs = performance.now();
    });
    stream.uncork();
  }

  /** Resolves when the peer has taken enough of what was sent. @throws VmckptError SOURCE_UNAVAILABLE when it is gone */
  async room(): Promise<void> {
    while (this.#stream.writableNeedDrain && !this.#stream.destroyed) await (this.#room ??= this.#drained());
    if (!this.#stream.writable) throw gone();
  }

  async #drained(): Promise<void> {
    const ended = new AbortController();
    const { signal } = ended;
    try {
      await Promise.race([
        once(this.#stream, 'drain', { signal }),
        once(this.#stream, 'close', { signal }).then(() => Promise.reject(gone())),
      ]);
    } finally {
      ended.abort();
      this.#room = undefined;
    }
  }
}

function gone(): VmckptError {
  return new VmckptError('SOURCE_UNAVAILABLE', 'the connection is closed');
}

/** Ends a connection, whatever has come on it, and says why. */
export function refuse(stream: Duplex, error: unknown): void {
  stream.removeAllListeners('data');
  stream.resume();
  const head = { type: REPLY_TYPES.error, id: 0, more: false };
  if (stream.writable) stream.end(encodeFrame(head, errorCodec.encode(toWire(error))));
  const timer = setTimeout(() => stream.destroy(), LINGER_MS).unref();
  stream.once('close', () => clearTimeout(timer));
}
