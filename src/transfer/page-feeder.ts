/**
 * Which page goes next: demand faults first, then the rest of their extents, and behind them everything else in
 * address order. A claim bitmap over all of it makes sure that no page is sent twice: QEMU ends a post-copy
 * stream that does (its UFFDIO_COPY answers EEXIST).
 */
import { performance } from 'node:perf_hooks';
import { PageBitmap } from '../pages/bitmap.js';
import { MAX_EXTENT_PAGES, PAGE_KINDS, type BulkDecoder, type PageSource } from '../pages/contracts.js';
import { HostPages } from '../pages/host-pages.js';
import { PAGE_BYTES, type PageRange } from '../pages/layout.js';
import type { Channel } from './channel.js';
import { decodedSteps, type DecodedStep } from './decoded-steps.js';
import { FaultRecorder } from './fault-times.js';

const ZERO_PAGES_PER_FLUSH = 8192;

export interface FeederOptions {
  readonly source: PageSource;
  readonly decoder: BulkDecoder;
  /** Where requested pages go: the preempt channel, or the main channel where there is none. */
  readonly demand: Channel;
  readonly background: Channel;
  /** Background bytes that may wait in front of the socket. */
  readonly backgroundAheadBytes: number;
  /** The receiver's, which takes only whole ones; by default as small as ours. */
  readonly hostPages?: HostPages;
}

export class PageFeeder {
  readonly faults = new FaultRecorder();
  readonly counters = { demandPages: 0, neighbourPages: 0, backgroundPages: 0, zeroPages: 0 };
  readonly #options: FeederOptions;
  readonly #claims: PageBitmap;
  readonly #hostPages: HostPages;
  readonly #scratch = Buffer.alloc(MAX_EXTENT_PAGES * PAGE_BYTES);

  constructor(options: FeederOptions) {
    this.#options = options;
    this.#claims = new PageBitmap(options.source.layout.pageCount);
    this.#hostPages = options.hostPages ?? new HostPages(options.source.layout);
  }

  /** Tells that QEMU has this page already (after a recovery). */
  markReceived(page: number): void {
    this.#claims.claim(page);
  }

  /** Answers a demand fault. @throws VmckptError EXTENT_DAMAGED, and then the page stays unanswered. */
  answer(firstPage: number, pageCount: number): void {
    const startedMs = performance.now();
    let answered = false;
    for (let page = firstPage; page < firstPage + pageCount;) {
      const whole = this.#hostPages.around(page);
      answered = (isHuge(whole) ? this.#answerHuge(whole) : this.#answerPage(page)) || answered;
      page = whole.endPage;
    }
    if (answered) this.faults.record((performance.now() - startedMs) * 1000);
  }

  /** Sends every data page of these ranges that nobody has asked for, in address order. @throws VmckptError EXTENT_DAMAGED */
  async sendRest(ranges: readonly PageRange[], signal: AbortSignal): Promise<void> {
    for (const range of ranges)
      if (this.#isOfHugePages(range)) await this.#sendHugeOf(range, { withData: true }, signal);
      else await this.#sendRestOf(range, signal);
  }

  async #sendRestOf(range: PageRange, signal: AbortSignal): Promise<void> {
    const { source, decoder, background, backgroundAheadBytes } = this.#options;
    const isWanted = (page: number): boolean => !this.#claims.has(page);
    for await (const step of decodedSteps({ source, decoder, range, isWanted })) {
      this.#sendStep(step);
      await background.room(backgroundAheadBytes);
      signal.throwIfAborted();
    }
  }

  /** Says of the pages of these ranges that carry no data that they are zero. */
  async sendZeros(ranges: readonly PageRange[], signal: AbortSignal): Promise<void> {
    for (const range of ranges)
      if (this.#isOfHugePages(range)) await this.#sendHugeOf(range, { withData: false }, signal);
      else await this.#sendZerosOf(range, signal);
    this.#options.background.flush();
  }

  async #sendZerosOf({ firstPage, endPage }: PageRange, signal: AbortSignal): Promise<void> {
    const { source, background, backgroundAheadBytes } = this.#options;
    let unflushed = 0;
    for (let page = firstPage; page < endPage; page++) {
      const kind = source.kindOf(page);
      if ((kind !== PAGE_KINDS.zero && kind !== PAGE_KINDS.absent) || !this.#claims.claim(page)) continue;
      background.records.zero(page);
      if (++unflushed < ZERO_PAGES_PER_FLUSH) continue;
      background.flush();
      unflushed = 0;
      await background.room(backgroundAheadBytes);
      signal.throwIfAborted();
    }
  }

  #answerPage(page: number): boolean {
    const { source, demand } = this.#options;
    const kind = source.kindOf(page);
    if (kind === PAGE_KINDS.data) {
      if (this.#claims.has(page)) return false;
      const extent = source.extentOf(page);
      source.readExtent(extent, this.#scratch);
      this.#claims.claim(page);
      demand.records.page(page, this.#scratch, source.slotOf(page) * PAGE_BYTES);
      demand.flush();
      this.counters.demandPages++;
      this.#sendNeighbours(page, extent);
      return true;
    }
    if (!this.#claims.claim(page)) return false;
    demand.records.fill(page, kind === PAGE_KINDS.fill ? source.fillByteOf(page) : 0);
    demand.flush();
    this.counters.demandPages++;
    this.counters.zeroPages++;
    return true;
  }

  /** The extent is decoded: its other pages are nearly free, and likely next. */
  #sendNeighbours(page: number, extent: number): void {
    const { source, demand } = this.#options;
    const block = source.layout.blockOf(page);
    const first = Math.max(block.firstPage, page - MAX_EXTENT_PAGES);
    const end = Math.min(block.firstPage + block.pageCount, page + MAX_EXTENT_PAGES);
    const sendWhile = (neighbour: number): boolean => {
      if (source.kindOf(neighbour) !== PAGE_KINDS.data) return true;
      if (source.extentOf(neighbour) !== extent) return false;
      if (this.#claims.claim(neighbour)) {
        demand.records.page(neighbour, this.#scratch, source.slotOf(neighbour) * PAGE_BYTES);
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

  #answerHuge(whole: PageRange): boolean {
    if (!this.#sendHuge(whole, this.#options.demand)) return false;
    this.counters.demandPages += whole.endPage - whole.firstPage;
    if (!this.#hasData(whole)) this.counters.zeroPages += whole.endPage - whole.firstPage;
    return true;
  }

  /** Huge pages with data, or those without, that nobody has asked for. */
  async #sendHugeOf(
    range: PageRange,
    { withData }: { withData: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { background, backgroundAheadBytes } = this.#options;
    for (let page = range.firstPage; page < range.endPage;) {
      const whole = this.#hostPages.around(page);
      page = whole.endPage;
      if (this.#hasData(whole) !== withData || !this.#sendHuge(whole, background)) continue;
      if (withData) this.counters.backgroundPages += whole.endPage - whole.firstPage;
      await background.room(backgroundAheadBytes);
      signal.throwIfAborted();
    }
  }

  #hasData({ firstPage, endPage }: PageRange): boolean {
    const { source } = this.#options;
    for (let page = firstPage; page < endPage; page++) {
      const kind = source.kindOf(page);
      if (kind === PAGE_KINDS.data || kind === PAGE_KINDS.fill) return true;
    }
    return false;
  }

  /** All pages of a huge one, in order and without a pause: QEMU puts it in place with the last of them. */
  #sendHuge({ firstPage, endPage }: PageRange, channel: Channel): boolean {
    const { source } = this.#options;
    if (this.#claims.has(firstPage)) return false;
    let decoded: number | undefined;
    for (let page = firstPage; page < endPage; page++) {
      const kind = source.kindOf(page);
      if (kind === PAGE_KINDS.data) {
        const extent = source.extentOf(page);
        if (extent !== decoded) source.readExtent(extent, this.#scratch);
        decoded = extent;
        channel.records.page(page, this.#scratch, source.slotOf(page) * PAGE_BYTES);
      } else channel.records.fill(page, kind === PAGE_KINDS.fill ? source.fillByteOf(page) : 0);
    }
    for (let page = firstPage; page < endPage; page++) this.#claims.claim(page);
    channel.flush();
    return true;
  }

  #sendStep({ firstPage, endPage, bytesOf }: DecodedStep): void {
    const { source, background } = this.#options;
    for (let page = firstPage; page < endPage; page++) {
      const kind = source.kindOf(page);
      if (kind === PAGE_KINDS.fill) {
        if (!this.#claims.claim(page)) continue;
        background.records.fill(page, source.fillByteOf(page));
      } else if (kind === PAGE_KINDS.data) {
        const bytes = bytesOf.get(source.extentOf(page));
        // Not among them: it was claimed when the step was cut.
        if (bytes === undefined || !this.#claims.claim(page)) continue;
        background.records.page(page, bytes, source.slotOf(page) * PAGE_BYTES);
      } else continue;
      this.counters.backgroundPages++;
    }
    background.flush();
  }
}

function isHuge({ firstPage, endPage }: PageRange): boolean {
  return endPage - firstPage > 1;
}
