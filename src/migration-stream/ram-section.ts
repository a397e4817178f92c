/**
 * What is in the section "ram" of a migration stream: the list of RAM blocks, then records of pages, in a START and any
 * number of PARTs and ENDs. Pages go to the sink in place when they are whole in the chunk. No allocation per page.
 * Invariant and source of the wire facts as in parser.ts.
 */
import type { PageSink } from '../pages/contracts.js';
import { PAGE_BYTES, type PlacedRamBlock, RamLayout } from '../pages/layout.js';
import { be32, be64, hex, latin1, malformed } from './bytes.js';
import { RAM_FLAG, RAM_FLAG_CAPABILITIES, RECORD_HEADER_BYTES } from './constants.js';

export type PageTarget = Pick<PageSink, 'fill' | 'data'>;

export interface RamHandler {
  /** Called once, when the MEM_SIZE list has been read; returns where pages go. */
  onLayout(layout: RamLayout): PageTarget;
}

const MAX_RAM_BLOCKS = 4096;
const FLAG_MASK = PAGE_BYTES - 1;
/** Pages that the upper 32 bits of a record's offset count. */
const PAGES_PER_HIGH_UNIT = 2 ** 32 / PAGE_BYTES;

export class RamSection {
  readonly #handler: RamHandler;
  #within: 'block list' | 'RAM records' = 'RAM records';
  /** Stream offset of the first byte of what is being taken. */
  #base = 0;
  #hasEnded = false;
  #pagesBefore = 0;
  #announcedBytes = 0;
  readonly #announced: { name: string; usedBytes: number }[] = [];
  #layout: RamLayout | undefined;
  #sink: PageTarget | undefined;
  #block: PlacedRamBlock | undefined;
  #dataPageCount = 0;
  #fillPageCount = 0;

  constructor(handler: RamHandler) {
    this.#handler = handler;
  }

  /** Undefined before the list of RAM blocks has been read. */
  get layout(): RamLayout | undefined {
    return this.#layout;
  }

  /** Page records with data; a page sent twice counts twice. */
  get dataPageCount(): number {
    return this.#dataPageCount;
  }

  /** Page records with one repeated byte. */
  get fillPageCount(): number {
    return this.#fillPageCount;
  }

  /** Named for the message of a stream that ends in the middle of one. */
  get within(): string {
    return this.#within;
  }

  /** Whether the START, PART or END that was begun last has ended. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Whether it has had no pages so far. */
  get wasEmpty(): boolean {
    return this.#dataPageCount + this.#fillPageCount === this.#pagesBefore;
  }

  /** A START, PART or END begins. */
  begin(): void {
    this.#hasEnded = false;
    this.#pagesBefore = this.#dataPageCount + this.#fillPageCount;
  }

  /**
   * Takes one element or several, the first at `at`. @param base the stream offset of `bytes`
   * @returns where the next one begins: `at` when the first is not whole
   * @throws VmckptError STREAM_MALFORMED, and what the handler throws
   */
  step(bytes: Uint8Array, at: number, base: number): number {
    this.#base = base;
    return this.#within === 'block list' ? this.#blockListEntry(bytes, at) : this.#records(bytes, at);
  }

  /** The hot path: page records, one after another, until one is not whole or is no page. */
  #records(bytes: Uint8Array, from: number): number {
    const end = bytes.length;
    const sink = this.#sink;
    let at = from;
    while (end - at >= RECORD_HEADER_BYTES) {
      const low = be32(bytes, at + 4);
      const kind = low & FLAG_MASK & ~RAM_FLAG.continue;
      if (kind !== RAM_FLAG.page && kind !== RAM_FLAG.zero) return this.#control(bytes, at);
      if (sink === undefined) this.#fail(at, 'the list of RAM blocks', 'a page');

      let body = at + RECORD_HEADER_BYTES;
      if ((low & RAM_FLAG.continue) === 0) {
        if (body === end) return at;
        body += 1 + bytes[body]!;
        if (body > end) return at;
        this.#block = this.#namedBlock(bytes, at + RECORD_HEADER_BYTES);
      }
      const block = this.#block;
      if (block === undefined) this.#fail(at, 'a RAM block name', '"same block" without one before it');
      const next = body + (kind === RAM_FLAG.page ? PAGE_BYTES : 1);
      if (next > end) return at;

      const pageInBlock = be32(bytes, at) * PAGES_PER_HIGH_UNIT + (low >>> 12);
      if (pageInBlock >= block.pageCount)
        this.#fail(
          at,
          `an offset below ${block.usedBytes} in RAM block "${block.name}"`,
          `${pageInBlock * PAGE_BYTES}`,
        );
      if (kind === RAM_FLAG.page) {
        sink.data(block.firstPage + pageInBlock, bytes, body);
        this.#dataPageCount++;
      } else {
        sink.fill(block.firstPage + pageInBlock, bytes[body]!);
        this.#fillPageCount++;
      }
      at = next;
    }
    return at;
  }

  #namedBlock(bytes: Uint8Array, at: number): PlacedRamBlock {
    const name = latin1(bytes, at + 1, bytes[at]!);
    const block = this.#layout?.byName(name);
    if (block === undefined) this.#fail(at, 'a RAM block of the list', JSON.stringify(name));
    return block;
  }

  /** A RAM record that is no page; its eight bytes are there. */
  #control(bytes: Uint8Array, at: number): number {
    const flags = be32(bytes, at + 4) & FLAG_MASK;
    switch (flags) {
      case RAM_FLAG.endOfSection:
        this.#hasEnded = true;
        break;
      case RAM_FLAG.multifdFlush:
        break;
      case RAM_FLAG.memSize:
        if (this.#layout !== undefined) this.#fail(at, 'one list of RAM blocks', 'another one');
        this.#announcedBytes = be64(bytes, at) - flags;
        this.#within = 'block list';
        if (this.#announcedBytes === 0) this.#endBlockList();
        break;
      default:
        this.#refuseRecord(at, flags);
    }
    return at + RECORD_HEADER_BYTES;
  }

  #refuseRecord(at: number, flags: number): never {
    const known = RAM_FLAG_CAPABILITIES.find(({ flag }) => (flags & flag) !== 0);
    this.#fail(at, 'a page-aligned offset and known flags of a RAM record', `the low bits ${hex(flags)}`, {
      hint: known && `Switch the migration capability ${known.capability} off in the saving QEMU.`,
    });
  }

  #blockListEntry(bytes: Uint8Array, at: number): number {
    if (at === bytes.length) return at;
    const usedAt = at + 1 + bytes[at]!;
    if (bytes.length < usedAt + 8) return at;
    if (this.#announced.length === MAX_RAM_BLOCKS)
      this.#fail(at, `at most ${MAX_RAM_BLOCKS} RAM blocks`, 'one more');
    const usedBytes = be64(bytes, usedAt);
    if (usedBytes > this.#announcedBytes || usedBytes % PAGE_BYTES !== 0)
      this.#fail(usedAt, `whole pages, at most ${this.#announcedBytes} bytes more of RAM`, `${usedBytes}`);
    const name = latin1(bytes, at + 1, bytes[at]!);
    if (name.includes('\0')) this.#fail(at, 'a RAM block name without NUL', JSON.stringify(name));
    this.#announced.push({ name, usedBytes });
    this.#announcedBytes -= usedBytes;
    if (this.#announcedBytes === 0) this.#endBlockList();
    return usedAt + 8;
  }

  #endBlockList(): void {
    this.#layout = new RamLayout(this.#announced);
    this.#sink = this.#handler.onLayout(this.#layout);
    this.#within = 'RAM records';
  }

  #fail(at: number, expected: string, actual: string, { hint }: { hint?: string | undefined } = {}): never {
    throw malformed({ where: 'migration stream', offset: this.#base + at, expected, actual, hint });
  }
}
