/** The extents of a generation that is still arriving: those that are here, and the others as they arrive. */
import { FileExtents } from '../checkpoint/file-extents.js';
import type { LocatedExtent } from '../checkpoint/generation-catalog.js';
import type { PagesReader } from '../checkpoint/pages-reader.js';
import { VmckptError } from '../errors.js';
import type { DecodedExtents, ExtentSource } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import type { Arrival } from './arrival.js';
import type { Lane } from './contracts.js';

/** What has not come after this time is asked for again. */
const REPEAT_AFTER_MS = 200;
/** Of a request for neighbours. */
const MAX_ASKED_BYTES = 1 << 20;

export class ArrivingExtents implements ExtentSource {
  readonly #reader: PagesReader;
  readonly #arrival: Arrival;
  readonly #files: FileExtents;
  /** When they were asked for because a guest waits for them. */
  readonly #demandedMs = new Map<number, number>();
  /** Extents that were damaged when they were read, and the refetch counts of their packs then. */
  readonly #damaged = new Map<number, number>();
  readonly #scratch: Uint8Array;

  /** Both must stay open until this is closed. */
  constructor(reader: PagesReader, arrival: Arrival) {
    this.#reader = reader;
    this.#arrival = arrival;
    this.#files = new FileExtents(reader);
    this.#scratch = new Uint8Array(reader.extentPages * PAGE_BYTES);
  }

  /** What is not here is demanded; what is damaged the first time, once more. */
  readNow(extent: number, into: Uint8Array): number | undefined {
    const info = this.#reader.extentInfo(extent);
    if (this.#isHere(extent, info)) {
      const isLast = this.#damaged.has(extent);
      try {
        return this.#files.readNow(extent, into);
      } catch (error) {
        if (isLast || !isDamage(error) || this.#arrival.isWhole(info)) throw error;
        this.#damaged.set(extent, this.#arrival.refetchCount(info.file));
        this.#demandedMs.delete(extent);
      }
    }
    this.#demand(extent, info);
    return undefined;
  }

  async read(extents: readonly number[], signal?: AbortSignal): Promise<DecodedExtents> {
    for (;;) {
      await this.#untilHere(extents, signal);
      try {
        return await this.#files.read(extents, signal);
      } catch (error) {
        if (!isDamage(error)) throw error;
        // Demands what is damaged once more; the second time, it throws.
        for (const extent of extents) this.readNow(extent, this.#scratch);
      }
    }
  }

  willNeed(extents: readonly number[]): void {
    this.#ask(extents, 'predicted');
  }

  async close(): Promise<void> {
    await this.#files.close();
  }

  async #untilHere(extents: readonly number[], signal: AbortSignal | undefined): Promise<void> {
    let absent = extents;
    for (let askedMs = -Infinity; ;) {
      signal?.throwIfAborted();
      const seen = this.#arrival.count;
      absent = absent.filter((extent) => !this.#isHere(extent, this.#reader.extentInfo(extent)));
      if (absent.length === 0) return;
      if (performance.now() - askedMs >= REPEAT_AFTER_MS) {
        askedMs = performance.now();
        this.#ask(absent, 'rest');
      }
      await this.#arrival.changed(seen);
    }
  }

  #isHere(extent: number, info: LocatedExtent): boolean {
    if (!this.#arrival.has(info)) return false;
    const since = this.#damaged.get(extent);
    return since === undefined || this.#arrival.wasRefetched(info, since);
  }

  /** One request for neighbours. Those that a guest waits for are demanded again. */
  #ask(extents: readonly number[], lane: Lane): void {
    const ranges: { file: string; offset: number; storedBytes: number }[] = [];
    for (const extent of extents) {
      const info = this.#reader.extentInfo(extent);
      if (this.#isHere(extent, info)) continue;
      if (this.#demandedMs.has(extent)) {
        this.#demand(extent, info);
        continue;
      }
      const { file, offset, storedBytes } = info;
      const last = ranges.at(-1);
      const follows = last?.file === file && last.offset + last.storedBytes === offset;
      if (follows && last.storedBytes < MAX_ASKED_BYTES) last.storedBytes += storedBytes;
      else ranges.push({ file, offset, storedBytes });
    }
    for (const range of ranges) this.#arrival.ask(range, { lane, isAgain: false });
  }

  #demand(extent: number, info: LocatedExtent): void {
    const nowMs = performance.now();
    if (nowMs - (this.#demandedMs.get(extent) ?? -Infinity) < REPEAT_AFTER_MS) return;
    this.#demandedMs.set(extent, nowMs);
    const since = this.#damaged.get(extent);
    const isAgain = since !== undefined && !this.#arrival.wasRefetched(info, since);
    this.#arrival.ask(info, { lane: 'demand', isAgain });
  }
}

function isDamage(error: unknown): boolean {
  return error instanceof VmckptError && error.code === 'EXTENT_DAMAGED';
}
