/** A file that processes have in common, mapped, and words in it for which they wait: mmap(2), futex(2). */
import { integer, loadAddon } from './addon.js';

interface SharedFileAddon {
  mapShared(fd: number): Uint8Array<ArrayBuffer>;
  raiseWord(bytes: Uint8Array, offset: number): void;
  awaitWord(options: {
    readonly bytes: Uint8Array;
    readonly offset: number;
    readonly seen: number;
    readonly timeoutMs: number;
  }): Promise<void>;
}

const addon = loadAddon<SharedFileAddon>;

/**
 * The bytes of a file that is open for reading and writing: what is written to them, every process sees that has them.
 * The mapping ends when the array is collected. The file must not become shorter, and not be empty (EINVAL).
 */
export function mapShared(fd: number): Uint8Array<ArrayBuffer> {
  return addon().mapShared(integer('fd', fd));
}

/** A 32-bit word in a shared file: a count of events. */
export class SharedWord {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #words: Uint32Array;
  readonly #at: number;

  /** @param bytes of mapShared() @param offset in bytes, a multiple of 4 */
  constructor(bytes: Uint8Array<ArrayBuffer>, offset: number) {
    this.#bytes = bytes;
    this.#words = new Uint32Array(bytes.buffer);
    this.#at = integer('offset', offset, { max: bytes.length - 4 }) / 4;
    integer('offset / 4', this.#at);
  }

  get value(): number {
    return Atomics.load(this.#words, this.#at);
  }

  /** Adds one, and wakes every process that waits. */
  raise(): void {
    addon().raiseWord(this.#bytes, this.#at * 4);
  }

  /** Resolves when the value is not `seen` any more, at the latest after `timeoutMs`; maybe earlier. */
  changed(seen: number, timeoutMs: number): Promise<void> {
    const milliseconds = integer('timeoutMs', timeoutMs);
    return addon().awaitWord({ bytes: this.#bytes, offset: this.#at * 4, seen, timeoutMs: milliseconds });
  }
}
