/**
 * Which range is asked of which source next. A demanded range goes out at once, to the source that answers fastest, and to a
 * second one if it is late. Bulk goes out as far as a source's credit allows: what is predicted in its order, then the rest.
 * What fails is asked again: of another source, or when one is here again.
 */
import { VmckptError } from '../../errors.js';
import { MAX_RANGE_BYTES, type Lane } from '../contracts.js';
import { PRESENCE } from '../cache-layout.js';
import type { Span } from '../cache/presence-file.js';
import type { FetchedPack } from './fetched-pack.js';
import { isUnavailable, type Source } from './source.js';

/** Of all demanded ranges, so many may be asked of a second source, and so many more in a row. */
const HEDGED_SHARE = 0.1;
const MAX_HEDGES_IN_A_ROW = 8;
/** Predicted ranges of a source that are looked through for one that it has. */
const MAX_LOOKED_THROUGH = 64;

interface Request {
  readonly pack: FetchedPack;
  readonly span: Span;
  readonly lane: Lane;
  /** It was here, and has failed its verification: the offset that was named. */
  readonly againFrom?: number | undefined;
  /** All sources have sent it damaged: what comes is kept, and its user names the damage. */
  readonly isLast?: boolean;
}

export interface FetchingEvents {
  /** A demanded range is here. */
  readonly onArrival: () => void;
  /** Blocks of it have come. */
  readonly onProgress: (pack: FetchedPack) => void;
  readonly onDamage: (pack: FetchedPack, source: Source, extent: Span) => void;
  /** The disk is full, or the like: nothing is asked for until resume(). */
  readonly onFailure: (error: unknown) => void;
}

export class Fetching {
  readonly #events: FetchingEvents;
  /** Demanded, and no source is here that has it. */
  #waiting: Request[] = [];
  #predicted: { readonly pack: FetchedPack; readonly span: Span }[] = [];
  #rest: FetchedPack[] = [];
  #hedgesLeft = MAX_HEDGES_IN_A_ROW;
  #isStopped = false;

  constructor(events: FetchingEvents) {
    this.#events = events;
  }

  /** Whether a guest, or a verb, waits for a source. */
  get isWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** A range that something waits for now. @param isAgain what is here has failed its verification */
  demand(pack: FetchedPack, span: Span, isAgain = false): void {
    if (isAgain) pack.arriving.forget(span);
    let isAsked = false;
    for (const part of pack.toDemand(span)) {
      const isNamed = isAgain && part.offset <= span.offset;
      for (const piece of pieces(isAgain ? part : this.#withNeighbours(pack, part)))
        this.#ask({ pack, span: piece, lane: 'demand', ...(isNamed && { againFrom: span.offset }) });
      isAsked = true;
    }
    // It has come since it was asked for.
    if (!isAsked && pack.arriving.has(span)) this.#events.onArrival();
  }

  /** Ranges that will be asked for soon, behind earlier ones. */
  predict(ranges: Iterable<{ readonly pack: FetchedPack; readonly span: Span }>): void {
    this.#predicted.push(...ranges);
    this.pump();
  }

  /** All of these packs, some time. */
  fill(packs: Iterable<FetchedPack>): void {
    this.#rest = [...new Set([...this.#rest, ...packs])];
    this.pump();
  }

  /** Nothing of the pack is asked for any more, except what is demanded. */
  dismiss(pack: FetchedPack): void {
    this.#rest = this.#rest.filter((other) => other !== pack);
    this.#predicted = this.#predicted.filter((range) => range.pack !== pack);
    this.#waiting = this.#waiting.filter((request) => request.pack !== pack);
  }

  /** A source is here again, or new. */
  resume(): void {
    this.#isStopped = false;
    for (const request of this.#waiting.splice(0)) this.#ask(request);
    this.pump();
  }

  /** Asks for bulk as far as credit goes. */
  pump(): void {
    const sources = new Set([...this.#rest, ...this.#predicted.map(({ pack }) => pack)].flatMap(sourcesIn));
    for (const source of sources)
      while (!this.#isStopped && source.hasCredit) {
        const next = this.#nextFor(source);
        if (next === undefined) break;
        next.pack.mark(next.span, false);
        void this.#read(next, source);
      }
  }

  #ask(request: Request): void {
    const { pack, span } = request;
    const source = this.#isStopped ? undefined : fastest(pack.sourcesOf(span));
    pack.mark(span, true);
    if (source === undefined) this.#waiting.push(request);
    else void this.#read(request, source);
  }

  async #read(request: Request, source: Source): Promise<void> {
    const { lane } = request;
    try {
      const answer =
        lane === 'demand' ? await this.#hedged(request, source) : await readFrom(source, request);
      await this.#take(request, answer);
    } catch (error) {
      this.#failed(request, source, error);
    }
    this.pump();
  }

  /** What has come is written and shown, as far as it is sound. */
  async #take({ pack, span, lane, ...request }: Request, { source, bytes }: Answer): Promise<void> {
    const wasDemanded = lane === 'demand' || pack.isDemanded(span);
    pack.receivedBytes += bytes.length;
    const { damaged, doubtful } = await pack.arriving.put(span.offset, bytes, request.isLast);
    pack.unmark(span);
    for (const extent of damaged) {
      pack.shun(source, extent);
      this.#events.onDamage(pack, source, extent);
    }
    for (const extent of [...damaged, ...doubtful]) this.#askWhole(pack, extent, request.againFrom);
    const isSound = damaged.length + doubtful.length === 0;
    if (isSound && request.againFrom !== undefined) pack.arriving.noteRefetched(request.againFrom);
    if (wasDemanded) this.#events.onArrival();
    this.#events.onProgress(pack);
  }

  /** Once more, in one piece, so that it can be told who has sent it. */
  #askWhole(pack: FetchedPack, extent: Span, againFrom: number | undefined): void {
    const span = pack.arriving.blocksOf(extent);
    const isLast = pack.sourcesOf(span).length === 0;
    if (isLast) {
      pack.lost.push(span);
      pack.pardon(span);
    }
    this.#ask({ pack, span, lane: 'demand', isLast, againFrom });
  }

  #failed(request: Request, source: Source, error: unknown): void {
    const { pack, span, lane } = request;
    pack.unmark(span);
    if (isUnavailable(error)) {
      // The source has noticed.
    } else if (error instanceof VmckptError && error.code === 'EXTENT_DAMAGED') {
      pack.shun(source, span);
      this.#events.onDamage(pack, source, span);
      return this.#askWhole(pack, span, request.againFrom);
    } else if (error instanceof VmckptError && ['NO_PACK', 'NOT_PERMITTED'].includes(error.code))
      pack.sources.delete(source);
    else {
      this.#isStopped = true;
      this.#events.onFailure(error);
    }
    if (lane === 'demand') this.#ask(request);
  }

  /** Asks a second source if the first is late. The first answer counts. */
  async #hedged(request: Request, source: Source): Promise<Answer> {
    this.#hedgesLeft = Math.min(this.#hedgesLeft + HEDGED_SHARE, MAX_HEDGES_IN_A_ROW);
    const others = new AbortController();
    const first = readFrom(source, request, others.signal);
    try {
      if (await isSettledWithin(first, source.pace.lateAfterMs)) return await first;
      const second = fastest(request.pack.sourcesOf(request.span).filter((other) => other !== source));
      if (second === undefined || this.#hedgesLeft < 1) return await first;
      this.#hedgesLeft--;
      return await Promise.any([first, readFrom(second, request, others.signal)]);
    } catch (error) {
      throw error instanceof AggregateError ? error.errors[0] : error;
    } finally {
      others.abort();
    }
  }

  #nextFor(source: Source): Request | undefined {
    const maxBytes = wholeBlocks(source.pace.chunkBytes);
    return this.#nextPredicted(source, maxBytes) ?? this.#nextOfRest(source, maxBytes);
  }

  #nextPredicted(source: Source, maxBytes: number): Request | undefined {
    const looked = this.#predicted.splice(0, MAX_LOOKED_THROUGH);
    try {
      for (let at = 0; at < looked.length; at++) {
        const { pack, span } = looked[at]!;
        const [missing] = pack.toFetch(span);
        if (missing === undefined) {
          looked.splice(at--, 1);
          continue;
        }
        if (!pack.sourcesOf(missing).includes(source)) continue;
        const end = this.#endWithNeighbours(looked, at, { maxBytes, end: missing.offset + missing.length });
        const whole = { offset: missing.offset, length: Math.min(end - missing.offset, maxBytes) };
        const [part] = pack.toFetch(whole);
        return { pack, span: part!, lane: 'predicted' };
      }
      return undefined;
    } finally {
      this.#predicted.unshift(...looked);
    }
  }

  /** Predicted ranges that directly follow each other are read as one. */
  #endWithNeighbours(
    ranges: readonly { readonly pack: FetchedPack; readonly span: Span }[],
    at: number,
    { maxBytes, end }: { readonly maxBytes: number; readonly end: number },
  ): number {
    const { pack, span } = ranges[at]!;
    let joined = end;
    for (const next of ranges.slice(at + 1)) {
      const follows = next.pack === pack && next.span.offset <= joined + PRESENCE.blockBytes;
      if (!follows || next.span.offset < span.offset || joined - span.offset >= maxBytes) break;
      joined = Math.max(joined, next.span.offset + next.span.length);
    }
    const { offset, length } = pack.arriving.blocksOf({ offset: span.offset, length: joined - span.offset });
    return offset + length;
  }

  #nextOfRest(source: Source, maxBytes: number): Request | undefined {
    for (const pack of this.#rest) {
      if (!pack.sources.has(source)) continue;
      const span = pack.nextToFetch(maxBytes);
      if (span !== undefined && pack.sourcesOf(span).includes(source)) return { pack, span, lane: 'rest' };
    }
    return undefined;
  }

  /** As many missing blocks behind a demanded range as cost next to nothing. */
  #withNeighbours(pack: FetchedPack, span: Span): Span {
    const free = fastest(pack.sourcesOf(span))?.pace.neighbourBytes ?? 0;
    const wider = pack.arriving.blocksOf({ offset: span.offset, length: span.length + wholeBlocks(free) });
    const [part] = pack.toFetch({ offset: span.offset + span.length, length: wider.length - span.length });
    const isNext = part?.offset === span.offset + span.length;
    return isNext ? { offset: span.offset, length: span.length + part.length } : span;
  }
}

interface Answer {
  readonly source: Source;
  readonly bytes: Uint8Array;
}

async function readFrom(
  source: Source,
  { pack, span, lane }: Request,
  signal = new AbortController().signal,
): Promise<Answer> {
  return { source, bytes: await source.read({ packId: pack.id, ...span }, lane, signal) };
}

function sourcesIn({ sources }: FetchedPack): Source[] {
  return [...sources];
}

/** Of those that are here. */
function fastest(sources: readonly Source[]): Source | undefined {
  const here = sources.filter(({ isHere }) => isHere);
  return here.sort((a, b) => a.pace.lateAfterMs - b.pace.lateAfterMs)[0];
}

async function isSettledWithin(promise: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => (timer = setTimeout(resolve, timeoutMs, false)));
  try {
    return await Promise.race([
      promise.then(
        () => true,
        () => true,
      ),
      late,
    ]);
  } finally {
    clearTimeout(timer);
  }
}

function* pieces({ offset, length }: Span): Generator<Span> {
  for (let at = offset; at < offset + length; at += MAX_RANGE_BYTES)
    yield { offset: at, length: Math.min(MAX_RANGE_BYTES, offset + length - at) };
}

function wholeBlocks(bytes: number): number {
  return Math.floor(bytes / PRESENCE.blockBytes) * PRESENCE.blockBytes;
}
