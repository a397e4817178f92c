/**
 * Decides which page goes next: demand faults first, then the rest of their extents, then predicted pages, then
 * everything else in address order. A claim bitmap makes sure that no page is sent twice: QEMU would end the
 * post-copy stream (its UFFDIO_COPY fails with EEXIST).
 */
import { performance } from 'node:perf_hooks';
import { PageBitmap } from '../pages/bitmap.js';
import { MAX_EXTENT_PAGES, PAGE_KINDS, type ExtentSource, type PageCatalog } from '../pages/contracts.js';
import { HostPages } from '../pages/host-pages.js';
import { PAGE_BYTES, type PageRange } from '../pages/layout.js';
import type { Channel } from './channel.js';
import { nowMs } from '../timeline/clock.js';
import { pagesOf, type PageRuns } from '../working-set/runs.js';
import { MAX_TRACE_FAULTS } from '../working-set/trace.js';
import { decodedSteps, type DecodedStep } from './decoded-steps.js';
import { FaultRecorder } from './fault-times.js';
import { Starvation } from './starvation.js';

const ZERO_PAGES_PER_FLUSH = 8192;
/** 2 MiB with 8 pages per extent: the memory that one late answer holds. */
const LATE_EXTENTS_AT_ONCE = 64;

export interface FeederOptions {
  readonly catalog: PageCatalog;
  readonly extents: ExtentSource;
  /** Where requested pages go: the preempt channel, or the main channel where there is none. */
  readonly demand: Channel;
  readonly background: Channel;
  /** Background bytes that may wait in front of the socket. */
  readonly backgroundAheadBytes: number;
  /** Page sizes of the receiver, which takes only whole pages. Default: 4 KiB. */
  readonly hostPages?: HostPages;
}

export class PageFeeder {
  readonly faults = new FaultRecorder();
  /** Of what was asked for. */
  readonly starvation = new Starvation();
  readonly counters = {
    demandPages: 0,
    withheldFaults: 0,
    neighbourPages: 0,
    prefetchedPages: 0,
    backgroundPages: 0,
    zeroPages: 0,
    /** Requests that had to wait for the source. */
    lateAnswers: 0,
  };
  readonly #options: FeederOptions;
  readonly #claims: PageBitmap;
  readonly #beganAtMs = nowMs();
  /** (page, microseconds since the start) for every requested page. */
  readonly #asked: number[] = [];
  #withheld: PageBitmap | undefined;
  readonly #hostPages: HostPages;
  readonly #scratch = Buffer.alloc(MAX_EXTENT_PAGES * PAGE_BYTES);

  constructor(options: FeederOptions) {
    this.#options = options;
    this.#claims = new PageBitmap(options.catalog.layout.pageCount);
    this.#hostPages = options.hostPages ?? new HostPages(options.catalog.layout);
  }

  /** Marks a page that QEMU already has (after a recovery). */
  markReceived(page: number): void {
    this.#claims.claim(page);
  }

  /** Number of requested pages, including those already under way. */
  get askedCount(): number {
    return this.#asked.length / 2;
  }

  /** The requests, including those for pages that were already under way. */
  observed(): { readonly faults: Uint32Array; readonly beganAtMs: number } {
    return { faults: Uint32Array.from(this.#asked), beganAtMs: this.#beganAtMs };
  }

  /**
   * Answers a demand fault at once, unless the source lacks a part of it. Then it returns a promise that resolves with
   * the last page.
   * @throws VmckptError EXTENT_DAMAGED, now or later, and the page stays unanswered; later the signal's reason
   */
  answer(firstPage: number, pageCount: number, signal: AbortSignal): Promise<void> | undefined {
    const startedMs = performance.now();
    const late: PageRange[] = [];
    let answered = false;
    for (let page = firstPage; page < firstPage + pageCount;) {
      const whole = this.#hostPages.around(page);
      if (!isHuge(whole)) this.#note(page);
      const outcome = this.#answerWhole(whole);
      if (outcome === undefined) late.push(whole);
      else answered = outcome || answered;
      page = whole.endPage;
    }
    const finish = (): void => {
      this.faults.record((performance.now() - startedMs) * 1000);
      if (this.#withheld?.has(firstPage) === true) this.counters.withheldFaults++;
    };
    if (late.length > 0) {
      this.counters.lateAnswers++;
      const whole = this.starvation.during(this.#answerLate(late, signal));
      return whole.then((later) => (answered || later ? finish() : undefined));
    }
    if (answered) finish();
    return undefined;
  }

  /** Sends these pages only on request, until withholdNoLonger(). */
  withhold(pages: PageRuns): void {
    this.#withheld = new PageBitmap(this.#options.catalog.layout.pageCount);
    for (const page of pagesOf(pages)) this.#withheld.claim(page);
  }

  withholdNoLonger(): void {
    this.#withheld = undefined;
  }

  /**
   * Sends these pages, including zero pages, until `untilMs`; skips those already requested. Huge pages are not
   * predicted: they are sent as a whole or not at all.
   * @throws VmckptError EXTENT_DAMAGED
   */
  async sendPredicted(pages: PageRuns, signal: AbortSignal, untilMs = Infinity): Promise<void> {
    await this.#send(this.#unsent(this.#smallOf(pages)), {
      signal,
      isOver: () => nowMs() > untilMs,
      onSent: () => this.counters.prefetchedPages++,
    });
  }

  /**
   * Sends the data pages of these ranges that are not sent yet, in address order. @throws VmckptError EXTENT_DAMAGED
   */
  async sendRest(ranges: readonly PageRange[], signal: AbortSignal): Promise<void> {
    for (const range of ranges)
      if (this.#isOfHugePages(range)) await this.#sendHugeOf(range, { withData: true }, signal);
      else await this.#sendRestOf(range, signal);
  }

  async #sendRestOf(range: PageRange, signal: AbortSignal): Promise<void> {
    await this.#send(this.#unsent(this.#dataPagesOf(range)), {
      signal,
      isOver: () => false,
      onSent: () => this.counters.backgroundPages++,
    });
  }

  /** Sends the pages of these ranges that carry no data as zero pages. */
  async sendZeros(ranges: readonly PageRange[], signal: AbortSignal): Promise<void> {
    for (const range of ranges)
      if (this.#isOfHugePages(range)) await this.#sendHugeOf(range, { withData: false }, signal);
      else await this.#sendZerosOf(range, signal);
    this.#options.background.flush();
  }

  async #sendZerosOf({ firstPage, endPage }: PageRange, signal: AbortSignal): Promise<void> {
    const { catalog, background, backgroundAheadBytes } = this.#options;
    let unflushed = 0;
    for (let page = firstPage; page < endPage; page++) {
      const kind = catalog.kindOf(page);
      if ((kind !== PAGE_KINDS.zero && kind !== PAGE_KINDS.absent) || !this.#claims.claim(page)) continue;
      background.records.zero(page);
      if (++unflushed < ZERO_PAGES_PER_FLUSH) continue;
      background.flush();
      unflushed = 0;
      await background.room(backgroundAheadBytes);
      signal.throwIfAborted();
    }
  }

  #note(page: number): void {
    // One more than a trace may hold, so that the reader sees that it was cut.
    if (this.#asked.length > 2 * MAX_TRACE_FAULTS) return;
    this.#asked.push(page, Math.round((nowMs() - this.#beganAtMs) * 1000));
  }

  *#dataPagesOf({ firstPage, endPage }: PageRange): Generator<number> {
    const { catalog } = this.#options;
    for (let page = firstPage; page < endPage; page++) {
      const kind = catalog.kindOf(page);
      if (kind === PAGE_KINDS.data || kind === PAGE_KINDS.fill) yield page;
    }
  }

  *#smallOf(pages: PageRuns): Generator<number> {
    for (const page of pagesOf(pages)) if (!isHuge(this.#hostPages.around(page))) yield page;
  }

  *#unsent(pages: Iterable<number>): Generator<number> {
    for (const page of pages) if (!this.#claims.has(page) && this.#withheld?.has(page) !== true) yield page;
  }

  async #send(pages: Iterable<number>, { signal, isOver, onSent }: Sending): Promise<void> {
    const { catalog, extents, background, backgroundAheadBytes } = this.#options;
    for await (const step of decodedSteps({ catalog, extents, pages, signal })) {
      if (isOver()) return;
      this.#sendStep(step, onSent);
      await background.room(backgroundAheadBytes);
      signal.throwIfAborted();
    }
  }

  /** Answers as soon as the source has the pages. Returns whether anything was left to send. */
  async #answerLate(wholes: readonly PageRange[], signal: AbortSignal): Promise<boolean> {
    const answer = async (whole: PageRange): Promise<boolean> => {
      for (;;) {
        await this.#bring(whole, signal);
        const outcome = this.#answerWhole(whole);
        if (outcome !== undefined) return outcome;
      }
    };
    return (await Promise.all(wholes.map(answer))).includes(true);
  }

  /** Waits until the source has what these pages need. */
  async #bring({ firstPage, endPage }: PageRange, signal: AbortSignal): Promise<void> {
    const { catalog, extents } = this.#options;
    const needed = new Set<number>();
    for (let page = firstPage; page < endPage; page++)
      if (catalog.kindOf(page) === PAGE_KINDS.data) needed.add(catalog.extentOf(page));
    extents.willNeed([...needed]);
    for (let rest = [...needed]; rest.length > 0; rest = rest.slice(LATE_EXTENTS_AT_ONCE))
      (await extents.read(rest.slice(0, LATE_EXTENTS_AT_ONCE), signal)).release();
  }

  /** False when it was sent before; undefined when the source does not have it yet. */
  #answerWhole(whole: PageRange): boolean | undefined {
    return isHuge(whole) ? this.#answerHuge(whole) : this.#answerPage(whole.firstPage);
  }

  #answerPage(page: number): boolean | undefined {
    const { catalog, extents, demand } = this.#options;
    const kind = catalog.kindOf(page);
    if (kind === PAGE_KINDS.data) {
      if (this.#claims.has(page)) return false;
      const extent = catalog.extentOf(page);
      if (extents.readNow(extent, this.#scratch) === undefined) return undefined;
      this.#claims.claim(page);
      demand.records.page(page, this.#scratch, catalog.slotOf(page) * PAGE_BYTES);
      demand.flush();
      this.counters.demandPages++;
      this.#sendNeighbours(page, extent);
      return true;
    }
    if (!this.#claims.claim(page)) return false;
    demand.records.fill(page, kind === PAGE_KINDS.fill ? catalog.fillByteOf(page) : 0);
    demand.flush();
    this.counters.demandPages++;
    this.counters.zeroPages++;
    return true;
  }

  /** The extent is decoded, so its other pages cost little, and they are likely to be needed next. */
  #sendNeighbours(page: number, extent: number): void {
    const { catalog, demand } = this.#options;
    const block = catalog.layout.blockOf(page);
    const first = Math.max(block.firstPage, page - MAX_EXTENT_PAGES);
    const end = Math.min(block.firstPage + block.pageCount, page + MAX_EXTENT_PAGES);
    const sendWhile = (neighbour: number): boolean => {
      if (catalog.kindOf(neighbour) !== PAGE_KINDS.data) return true;
      if (catalog.extentOf(neighbour) !== extent) return false;
      if (this.#claims.claim(neighbour)) {
        demand.records.page(neighbour, this.#scratch, catalog.slotOf(neighbour) * PAGE_BYTES);
        this.counters.neighbourPages++;
      }
      return true;
    };
    for (let next = page + 1; next < end && sendWhile(next); next++);
    for (let previous = page - 1; previous >= first && sendWhile(previous); previous--);
    demand.flush();
  }

  #isOfHugePages(range: PageRange): boolean {
    return range.firstPage < range.endPage && isHuge(this.#hostPages.around(range.firstPage));
  }

  #answerHuge(whole: PageRange): boolean | undefined {
    const outcome = this.#sendHuge(whole, this.#options.demand);
    if (outcome !== true) return outcome;
    this.counters.demandPages += whole.endPage - whole.firstPage;
    if (!this.#hasData(whole)) this.counters.zeroPages += whole.endPage - whole.firstPage;
    return true;
  }

  /** Sends huge pages with data, or those without, that are not sent yet. */
  async #sendHugeOf(
    range: PageRange,
    { withData }: { withData: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { background, backgroundAheadBytes } = this.#options;
    for (let page = range.firstPage; page < range.endPage;) {
      const whole = this.#hostPages.around(page);
      page = whole.endPage;
      if (this.#hasData(whole) !== withData) continue;
      let outcome: boolean | undefined;
      while ((outcome = this.#sendHuge(whole, background)) === undefined) await this.#bring(whole, signal);
      if (!outcome) continue;
      if (withData) this.counters.backgroundPages += whole.endPage - whole.firstPage;
      await background.room(backgroundAheadBytes);
      signal.throwIfAborted();
    }
  }

  #hasData({ firstPage, endPage }: PageRange): boolean {
    const { catalog } = this.#options;
    for (let page = firstPage; page < endPage; page++) {
      const kind = catalog.kindOf(page);
      if (kind === PAGE_KINDS.data || kind === PAGE_KINDS.fill) return true;
    }
    return false;
  }

  /**
   * Sends all pages of a huge page in order and without a pause: QEMU installs it with the last of them. False when it
   * was sent before; undefined, with nothing sent, when the source lacks a part of it.
   */
  #sendHuge({ firstPage, endPage }: PageRange, channel: Channel): boolean | undefined {
    const { catalog } = this.#options;
    if (this.#claims.has(firstPage)) return false;
    channel.flush();
    let decoded: number | undefined;
    for (let page = firstPage; page < endPage; page++) {
      const kind = catalog.kindOf(page);
      if (kind === PAGE_KINDS.data) {
        const extent = catalog.extentOf(page);
        if (extent !== decoded && this.#options.extents.readNow(extent, this.#scratch) === undefined) {
          channel.records.discard();
          return undefined;
        }
        decoded = extent;
        channel.records.page(page, this.#scratch, catalog.slotOf(page) * PAGE_BYTES);
      } else channel.records.fill(page, kind === PAGE_KINDS.fill ? catalog.fillByteOf(page) : 0);
    }
    for (let page = firstPage; page < endPage; page++) this.#claims.claim(page);
    channel.flush();
    return true;
  }

  #sendStep({ pages, bytesOf }: DecodedStep, onSent: () => void): void {
    const { catalog, background } = this.#options;
    for (const page of pages) {
      // It may have been requested since the step was cut.
      if (!this.#claims.claim(page)) continue;
      const kind = catalog.kindOf(page);
      if (kind === PAGE_KINDS.data)
        background.records.page(
          page,
          bytesOf.get(catalog.extentOf(page))!,
          catalog.slotOf(page) * PAGE_BYTES,
        );
      else if (kind === PAGE_KINDS.fill) background.records.fill(page, catalog.fillByteOf(page));
      else {
        background.records.zero(page);
        this.counters.zeroPages++;
        continue;
      }
      onSent();
    }
    background.flush();
  }
}

interface Sending {
  readonly signal: AbortSignal;
  /** Checked before every step. */
  readonly isOver: () => boolean;
  readonly onSent: () => void;
}

function isHuge({ firstPage, endPage }: PageRange): boolean {
  return endPage - firstPage > 1;
}
