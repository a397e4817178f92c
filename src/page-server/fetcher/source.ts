/**
 * One of the stores that packs are read from, for the fetcher: whether it can be reached, how fast it answers, and what is
 * under way. One that is away is asked again and again, after longer and longer pauses.
 */
import { VmckptError } from '../../errors.js';
import type { Lane, OpenedGeneration, PackRange, RemoteStore } from '../contracts.js';
import { Pace } from './pace.js';

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;

/** Why it cannot be reached, and since when. */
export interface Absence {
  readonly problem: string;
  /** Of performance.now(). */
  readonly sinceMs: number;
}

export class Source {
  readonly pace = new Pace();
  readonly #store: RemoteStore;
  readonly #onChange: () => void;
  #absence: Absence | undefined;
  #bulkBytesUnderWay = 0;
  #retry: NodeJS.Timeout | undefined;
  #isClosed = false;

  /** @param onChange called when it is here again, and when it is away */
  constructor(store: RemoteStore, onChange: () => void) {
    this.#store = store;
    this.#onChange = onChange;
  }

  get label(): string {
    return this.#store.label;
  }

  get absence(): Absence | undefined {
    return this.#absence;
  }

  get isHere(): boolean {
    return this.#absence === undefined && !this.#isClosed;
  }

  /** Whether more may be asked for in bulk. */
  get hasCredit(): boolean {
    return this.isHere && this.#bulkBytesUnderWay < this.pace.creditBytes;
  }

  /** @throws VmckptError as RemoteStore.open() */
  open(reference: string): Promise<OpenedGeneration> {
    return this.watch(() => this.#store.open(reference));
  }

  /** @throws VmckptError as PackSource.read() */
  async read(range: PackRange, lane: Lane, signal: AbortSignal): Promise<Uint8Array> {
    const startMs = performance.now();
    const isBulk = lane !== 'demand';
    if (isBulk && this.#bulkBytesUnderWay === 0) this.pace.restart();
    if (isBulk) this.#bulkBytesUnderWay += range.length;
    try {
      const bytes = await this.watch(() => this.#store.read(range, { lane, signal }));
      const isBusy = this.#bulkBytesUnderWay + this.pace.chunkBytes >= this.pace.creditBytes;
      if (isBulk) this.pace.onBulk(range.length, isBusy);
      else this.pace.onDemanded(performance.now() - startMs);
      return bytes;
    } finally {
      if (isBulk) this.#bulkBytesUnderWay -= range.length;
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#retry);
    await this.#store.close();
  }

  /** Asks the store for something, and notices if it cannot be reached. */
  async watch<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      if (isUnavailable(error)) this.#goAway(error.message);
      throw error;
    }
  }

  #goAway(problem: string): void {
    if (!this.isHere) return;
    this.#absence = { problem, sinceMs: performance.now() };
    this.#onChange();
    this.#askAgain(FIRST_PAUSE_MS);
  }

  /** With some chance in it, so that the clients of a server that was away do not all come at once. */
  #askAgain(pauseMs: number): void {
    this.#retry = setTimeout(() => void this.#ask(pauseMs), pauseMs * (0.5 + Math.random() / 2));
  }

  async #ask(pauseMs: number): Promise<void> {
    const isAway = await this.#store.have([]).then(() => false, isUnavailable);
    if (this.#isClosed) return;
    if (isAway) return this.#askAgain(Math.min(2 * pauseMs, LONGEST_PAUSE_MS));
    this.#absence = undefined;
    this.#onChange();
  }
}

export function isUnavailable(error: unknown): error is VmckptError {
  return error instanceof VmckptError && error.code === 'SOURCE_UNAVAILABLE';
}
