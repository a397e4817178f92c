/** Decodes extents on this thread: for so few of them that starting others would take longer. */
import type { BulkDecoder, DecodedExtents } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import type { PagesReader } from './pages-reader.js';

export class InlineDecoder implements BulkDecoder {
  readonly #reader: PagesReader;

  constructor(reader: PagesReader) {
    this.#reader = reader;
  }

  /** @throws VmckptError EXTENT_DAMAGED, INDEX_DAMAGED */
  async decode(extents: readonly number[]): Promise<DecodedExtents> {
    const decoded = extents.map((extent) => {
      const bytes = new Uint8Array(this.#reader.extentPages * PAGE_BYTES);
      return bytes.subarray(0, this.#reader.readExtent(extent, bytes) * PAGE_BYTES);
    });
    return { bytesAt: (position) => decoded[position]!, release: () => undefined };
  }
}
