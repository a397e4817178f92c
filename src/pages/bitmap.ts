/** One bit per page, indexed by flat page number. */
export class PageBitmap {
  readonly pageCount: number;
  readonly #words: Uint32Array;
  #count = 0;

  constructor(pageCount: number) {
    this.pageCount = pageCount;
    this.#words = new Uint32Array(Math.ceil(pageCount / 32));
  }

  /** The number of set bits. */
  get count(): number {
    return this.#count;
  }

  has(page: number): boolean {
    return ((this.#words[page >>> 5]! >>> (page & 31)) & 1) === 1;
  }

  /** The first page at or after `page` whose bit is clear; `pageCount` if there is none. */
  nextClear(page: number): number {
    let word = page >>> 5;
    let clear = ~(this.#words[word] ?? 0) & (-1 << (page & 31));
    while (clear === 0 && ++word < this.#words.length) clear = ~this.#words[word]!;
    if (clear === 0) return this.pageCount;
    return Math.min(word * 32 + 31 - Math.clz32(clear & -clear), this.pageCount);
  }

  /** Sets a page's bit and returns whether it was clear. This is the only way to claim a page. */
  claim(page: number): boolean {
    const word = page >>> 5;
    const mask = 1 << (page & 31);
    if ((this.#words[word]! & mask) !== 0) return false;
    this.#words[word]! |= mask;
    this.#count++;
    return true;
  }
}
