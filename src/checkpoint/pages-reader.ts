/** Reads the pages of a generation: its catalogue, and the bytes of its extents. */
import { DAMAGE_HINT, VmckptError } from '../errors.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { ExtentDecoder } from './extent-codec.js';
import { readAt } from './files.js';
import { GenerationCatalog, type CatalogFacts, type LocatedExtent } from './generation-catalog.js';
import type { PageFiles } from './page-files.js';

export class PagesReader extends GenerationCatalog {
  readonly #decoder = new ExtentDecoder();
  readonly #stored: Uint8Array;

  /** The files stay open, for threads that read beside this reader as well, and are the caller's to close. */
  constructor(facts: CatalogFacts, files: PageFiles) {
    super(facts, files);
    this.#stored = new Uint8Array(facts.extentPages * PAGE_BYTES);
  }

  /**
   * Reads, verifies and decodes an extent into `into`, which has room for `extentPages` pages; returns its page count.
   * @throws VmckptError EXTENT_DAMAGED, and then `into` holds nothing of use
   */
  readExtent(extent: number, into: Uint8Array): number {
    const info = this.extentInfo(extent);
    const stored = this.#stored.subarray(0, info.storedBytes);
    let readBytes: number;
    try {
      readBytes = readAt(info.fd, stored, info.offset);
    } catch (error) {
      throw extentDamaged(this.label, { info, fault: 'it cannot be read', cause: error });
    }
    const fault = this.#decoder.decode(info, stored.subarray(0, readBytes), into);
    if (fault !== undefined) throw extentDamaged(this.label, { info, fault });
    return info.pageCount;
  }
}

export interface ExtentFault {
  readonly info: LocatedExtent;
  readonly fault: string;
  readonly cause?: unknown;
}

/** The error that names a damaged extent. */
export function extentDamaged(label: string, { info, fault, cause }: ExtentFault): VmckptError {
  const { file, number, offset, storedBytes } = info;
  return new VmckptError(
    'EXTENT_DAMAGED',
    `extent ${number} of ${label} (${storedBytes} bytes at offset ${offset} of "${file}") is damaged: ${fault}`,
    { hint: DAMAGE_HINT, cause },
  );
}
