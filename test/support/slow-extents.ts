/**
 * A source that does not have some of its extents yet, in front of one that has all of them: the double of a server that
 * is slow or away. test/unit/native/slow_extents.h is the same in C++.
 */
import { EventEmitter, once } from 'node:events';
import type { DecodedExtents, ExtentSource } from '../../src/pages/contracts.js';

export class SlowExtents implements ExtentSource {
  /** What was announced, in order. */
  readonly announced: number[] = [];
  readonly #behind: ExtentSource;
  readonly #withheld = new Set<number>();
  readonly #deliveries = new EventEmitter().setMaxListeners(0);
  #refusals = 0;

  constructor(behind: ExtentSource) {
    this.#behind = behind;
  }

  withhold(...extents: readonly number[]): void {
    for (const extent of extents) this.#withheld.add(extent);
  }

  deliver(...extents: readonly number[]): void {
    for (const extent of extents) this.#withheld.delete(extent);
    this.#deliveries.emit('delivery');
  }

  /** How often an extent was wanted at once that is not here. */
  get refusals(): number {
    return this.#refusals;
  }

  readNow(extent: number, into: Uint8Array): number | undefined {
    if (!this.#withheld.has(extent)) return this.#behind.readNow(extent, into);
    this.#refusals++;
    return undefined;
  }

  async read(extents: readonly number[], signal?: AbortSignal): Promise<DecodedExtents> {
    while (extents.some((extent) => this.#withheld.has(extent)))
      await once(this.#deliveries, 'delivery', { signal }).catch((error: unknown) => {
        signal?.throwIfAborted();
        throw error;
      });
    return this.#behind.read(extents, signal);
  }

  willNeed(extents: readonly number[]): void {
    this.announced.push(...extents);
    this.#behind.willNeed(extents);
  }
}
