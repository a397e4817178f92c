/** One bit a page over flat page numbers. */
export class PageBitmap {
  readonly pageCount: number;
  readonly #words: Uint32Array;
  #count = 0;

  constructor(pageCount: number) {
    this.pageCount = pageCount;
    this.#words = new Uint32Array(Math.ceil(pageCount / 32));
  }

  /** How many bits are set. */
  get count(): number {
    return this.#count;
  }

  has(page: number): boolean {
    return ((this.#words[page >>> 5]! >>> (page & 31)) & 1) === 1;
  }

  /** Sets a page's bit and tells whether it was clear: the one way to claim a page. */
  claim(page: number): boolean {
    const word = page >>> 5;
    const mask = 1 << (page & 31);
    if ((this.#words[word]! & mask) !== 0) return false;
    this.#words[word]! |= mask;
    this.#count++;
    return true;
  }
}
