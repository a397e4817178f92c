/** Decodes extents on this thread: for so few of them that starting others would take longer. */
import {
  MAX_EXTENT_PAGES,
  type BulkDecoder,
  type DecodedExtents,
  type PageSource,
} from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';

export class InlineDecoder implements BulkDecoder {
  readonly #source: PageSource;

  constructor(source: PageSource) {
    this.#source = source;
  }

  /** @throws VmckptError EXTENT_DAMAGED, INDEX_DAMAGED */
  async decode(extents: readonly number[]): Promise<DecodedExtents> {
    const decoded = extents.map((extent) => {
      const bytes = new Uint8Array(MAX_EXTENT_PAGES * PAGE_BYTES);
      return bytes.subarray(0, this.#source.readExtent(extent, bytes) * PAGE_BYTES);
    });
    return { bytesAt: (position) => decoded[position]!, release: () => undefined };
  }
}
