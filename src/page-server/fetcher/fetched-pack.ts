/** A pack that is arriving, and who has it: what of it is missing, and what is under way. */
import { PRESENCE } from '../cache-layout.js';
import type { ArrivingPack } from '../cache/arriving-pack.js';
import type { Span } from '../cache/presence-file.js';
import type { Source } from './source.js';

const BLOCK_BYTES = PRESENCE.blockBytes;
/** Of a block. */
const UNDER_WAY = { no: 0, inBulk: 1, demanded: 2 } as const;

export class FetchedPack {
  readonly arriving: ArrivingPack;
  /** Those that have opened a generation with it. */
  readonly sources = new Set<Source>();
  receivedBytes = 0;
  /** Attachments to generations with it. */
  users = 0;
  /** It is whole, and an ordinary pack. */
  isFinished = false;
  readonly #underWay: Uint8Array;
  /** By a block: the sources that have sent it damaged. */
  readonly #shunned = new Map<number, Set<Source>>();
  /** Blocks that are here, although all sources have sent them damaged. */
  readonly lost: Span[] = [];
  /** All before it is here or under way. */
  #cursor = 0;
  readonly #awaited: { readonly isHere: () => boolean; readonly resolve: () => void }[] = [];

  constructor(arriving: ArrivingPack) {
    this.arriving = arriving;
    this.#underWay = new Uint8Array(Math.ceil(arriving.pack.fileBytes / BLOCK_BYTES));
  }

  get id(): string {
    return this.arriving.pack.id;
  }

  /** Whether all of it is here, and verified. */
  get isSound(): boolean {
    return this.arriving.isWhole && this.arriving.isVerifying && this.lost.length === 0;
  }

  /** Whether a part of the span was asked for in lane `demand`, and has not come. */
  isDemanded({ offset, length }: Span): boolean {
    return this.#underWay
      .subarray(Math.floor(offset / BLOCK_BYTES), Math.ceil((offset + length) / BLOCK_BYTES))
      .includes(UNDER_WAY.demanded);
  }

  /** What is missing of a span, and not demanded. Bulk that is under way may take long: it does not count. */
  toDemand(span: Span): Generator<Span> {
    return this.#missing(span, (state) => state !== UNDER_WAY.demanded);
  }

  /** What is missing of a span, and not under way. */
  toFetch(span: Span): Generator<Span> {
    return this.#missing(span, (state) => state === UNDER_WAY.no);
  }

  /** The next part of the pack that is missing and not under way, with at most `maxBytes`. */
  nextToFetch(maxBytes: number): Span | undefined {
    const { fileBytes } = this.arriving.pack;
    while (this.#cursor < fileBytes) {
      const window = { offset: this.#cursor, length: Math.min(maxBytes, fileBytes - this.#cursor) };
      const [found] = this.toFetch(window);
      if (found?.offset === this.#cursor) return found;
      this.#cursor = found?.offset ?? window.offset + window.length;
    }
    return undefined;
  }

  /** Resolves when something about the pack is true; settle() asks. */
  whenever(isHere: () => boolean): Promise<void> {
    return new Promise((resolve) => this.#awaited.push({ isHere, resolve }));
  }

  /** Something has come. */
  settle(): void {
    for (const awaited of this.#awaited.splice(0))
      if (awaited.isHere()) awaited.resolve();
      else this.#awaited.push(awaited);
  }

  mark(span: Span, isDemanded: boolean): void {
    this.#fill(span, isDemanded ? UNDER_WAY.demanded : UNDER_WAY.inBulk);
  }

  /** It has come, or does not come. */
  unmark(span: Span): void {
    this.#fill(span, UNDER_WAY.no);
    this.#cursor = Math.min(this.#cursor, span.offset);
  }

  /** What this source has sent is damaged: it is not asked for these blocks again. */
  shun(source: Source, { offset, length }: Span): void {
    for (let block = Math.floor(offset / BLOCK_BYTES); block * BLOCK_BYTES < offset + length; block++)
      this.#shunned.set(block, (this.#shunned.get(block) ?? new Set()).add(source));
  }

  /** All sources are asked again. */
  pardon({ offset, length }: Span): void {
    for (let block = Math.floor(offset / BLOCK_BYTES); block * BLOCK_BYTES < offset + length; block++)
      this.#shunned.delete(block);
  }

  /** The sources to ask for a span. */
  sourcesOf({ offset, length }: Span): Source[] {
    const sources = new Set(this.sources);
    if (this.#shunned.size > 0)
      for (let block = Math.floor(offset / BLOCK_BYTES); block * BLOCK_BYTES < offset + length; block++)
        for (const source of this.#shunned.get(block) ?? []) sources.delete(source);
    return [...sources];
  }

  *#missing(span: Span, counts: (state: number) => boolean): Generator<Span> {
    for (const { offset, length } of this.arriving.missingIn(span)) {
      let start: number | undefined;
      for (let at = offset; at < offset + length; at += BLOCK_BYTES) {
        const isWanted = counts(this.#underWay[at / BLOCK_BYTES]!);
        if (!isWanted && start !== undefined) yield { offset: start, length: at - start };
        start = isWanted ? (start ?? at) : undefined;
      }
      if (start !== undefined) yield { offset: start, length: offset + length - start };
    }
  }

  #fill({ offset, length }: Span, state: number): void {
    this.#underWay.fill(state, Math.floor(offset / BLOCK_BYTES), Math.ceil((offset + length) / BLOCK_BYTES));
  }
}
