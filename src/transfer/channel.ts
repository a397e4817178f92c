/**
 * One output for page records: a connection to an incoming QEMU, or a file. A RecordWriter gathers records; flush()
 * writes them. Bytes that were not taken yet are counted, to pace background pages.
 */
import type { Writable } from 'node:stream';
import type { RamLayout } from '../pages/layout.js';
import { RecordWriter } from '../migration-stream/serializer.js';

const WRITER_BYTES = 256 * 1024;

export class Channel {
  readonly records: RecordWriter;
  readonly #out: Writable;
  #inFlightBytes = 0;
  #sentBytes = 0;
  #waiters: { belowBytes: number; resolve: () => void }[] = [];

  constructor(out: Writable, layout: RamLayout) {
    this.#out = out;
    this.records = new RecordWriter(layout, WRITER_BYTES);
    out.once('close', () => this.#wake(-Infinity));
  }

  get sentBytes(): number {
    return this.#sentBytes;
  }

  get closed(): boolean {
    return this.#out.destroyed;
  }

  /** Writes all records gathered so far. */
  flush(): void {
    if (this.records.usedBytes > 0) this.#send(this.records.take());
  }

  /** Sends bytes that are not page records, after everything written so far. */
  send(bytes: Uint8Array): void {
    this.flush();
    this.#send(bytes);
  }

  /** Resolves when fewer than `belowBytes` wait to be taken, or when the other end has closed. */
  room(belowBytes: number): Promise<void> {
    if (this.#inFlightBytes < belowBytes || this.closed) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ belowBytes, resolve }));
  }

  #send(bytes: Uint8Array): void {
    const { byteLength } = bytes;
    this.#inFlightBytes += byteLength;
    this.#sentBytes += byteLength;
    // The write callback, not 'drain': 'drain' does not fire below the high-water mark.
    this.#out.write(bytes, () => {
      this.#inFlightBytes -= byteLength;
      this.#wake(this.#inFlightBytes);
    });
  }

  #wake(inFlightBytes: number): void {
    const waiting = this.#waiters;
    this.#waiters = waiting.filter(({ belowBytes }) => inFlightBytes >= belowBytes);
    for (const { belowBytes, resolve } of waiting) if (inFlightBytes < belowBytes) resolve();
  }
}
