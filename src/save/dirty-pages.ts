/**
 * The pages that a guest writes to while it is saved, told from the order in which QEMU sends memory. They are what the
 * guest, brought back to that instant, is about to touch (docs/working-set.md).
 *
 * A background snapshot is one sweep over memory. A page that the guest wants to write to is sent at once, out of line,
 * and the sweep goes on behind it. Writes to what the sweep has passed are not seen. Pre-copy sends a page again that was
 * written to since. (QEMU 7.2 and 10.0: get_queued_page() and find_dirty_block() in migration/ram.c.)
 */
import type { PageTarget } from '../migration-stream/ram-section.js';
import { PageBitmap } from '../pages/bitmap.js';
import type { StreamMethod } from './methods.js';

/** Hands on every page to `sink`. */
export class DirtyPages implements PageTarget {
  readonly #sink: PageTarget;
  readonly #isDirty: (page: number) => boolean;
  readonly #sent: PageBitmap;
  readonly #dirty: PageBitmap;
  readonly #pages: number[] = [];
  #last = -1;

  constructor(
    sink: PageTarget,
    { method, pageCount }: { readonly method: StreamMethod; readonly pageCount: number },
  ) {
    this.#sink = sink;
    this.#sent = new PageBitmap(pageCount);
    this.#dirty = new PageBitmap(pageCount);
    this.#isDirty = {
      'background-snapshot': this.#isOutOfLine,
      precopy: this.#isSentAgain,
      stopped: () => false,
    }[method];
  }

  /** Each once, the first that was found dirty first. */
  get pages(): readonly number[] {
    return this.#pages;
  }

  fill(page: number, byte: number): void {
    this.#note(page);
    this.#sink.fill(page, byte);
  }

  data(page: number, bytes: Uint8Array, start: number): void {
    this.#note(page);
    this.#sink.data(page, bytes, start);
  }

  #note(page: number): void {
    if (this.#isDirty(page) && this.#dirty.claim(page)) this.#pages.push(page);
    this.#sent.claim(page);
    this.#last = page;
  }

  readonly #isSentAgain = (page: number): boolean => this.#sent.has(page);

  readonly #isOutOfLine = (page: number): boolean => {
    if (page === this.#last + 1) return false;
    const next = this.#sent.nextClear(this.#last + 1);
    return page !== (next < this.#sent.pageCount ? next : this.#sent.nextClear(0));
  };
}
