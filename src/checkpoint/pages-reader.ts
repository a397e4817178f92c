/** Reads the pages of a local generation: its catalogue, and the bytes of its extents. */
import fs from 'node:fs';
import path from 'node:path';
import { DAMAGE_HINT, VmckptError } from '../errors.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { openRegular } from '../util/regular-file.js';
import { ExtentDecoder } from './extent-codec.js';
import { readAt } from './files.js';
import { GENERATION_FILES, HEADER_BYTES, PAGES_SPEC, verifyHeader, type ExtentInfo } from './format.js';
import { GenerationCatalog, type PagesDescription } from './generation-catalog.js';
import { openFailure } from './manifest.js';

export class PagesReader extends GenerationCatalog {
  /** The open file `pages`, for threads that read beside this reader while it is open. */
  readonly pagesFd: number;
  readonly #decoder = new ExtentDecoder();
  readonly #stored: Uint8Array;

  /** @throws VmckptError INDEX_DAMAGED, EXTENT_DAMAGED, FORMAT_UNSUPPORTED, FILE_MISSING, NOT_A_FILE, NOT_PERMITTED */
  constructor(dir: string, description: PagesDescription) {
    super(dir, description);
    this.#stored = new Uint8Array(description.extentPages * PAGE_BYTES);
    try {
      this.pagesFd = openPages(dir, { label: this.label, fileBytes: description.fileBytes });
    } catch (error) {
      super.close();
      throw error;
    }
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
      readBytes = readAt(this.pagesFd, stored, info.offset);
    } catch (error) {
      throw extentDamaged(this.label, { extent, info, fault: 'it cannot be read', cause: error });
    }
    const fault = this.#decoder.decode(info, stored.subarray(0, readBytes), into);
    if (fault !== undefined) throw extentDamaged(this.label, { extent, info, fault });
    return info.pageCount;
  }

  override close(): void {
    super.close();
    fs.closeSync(this.pagesFd);
  }
}

/** @throws VmckptError */
function openPages(dir: string, { label, fileBytes }: { label: string; fileBytes: number }): number {
  const file = GENERATION_FILES.pages;
  let fd: number;
  try {
    fd = openRegular(path.join(dir, file));
  } catch (error) {
    throw openFailure(error, label, file);
  }
  try {
    const { size } = fs.fstatSync(fd);
    if (size !== fileBytes)
      throw new VmckptError('EXTENT_DAMAGED', `${label}/${file} has ${size} bytes, ${fileBytes} expected`, {
        hint: DAMAGE_HINT,
      });
    const header = Buffer.alloc(HEADER_BYTES);
    readAt(fd, header, 0);
    verifyHeader(header, PAGES_SPEC, { entryCount: 0, file: `${label}/${file}` });
    return fd;
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

export interface ExtentFault {
  readonly extent: number;
  readonly info: ExtentInfo;
  readonly fault: string;
  readonly cause?: unknown;
}

/** The error that names a damaged extent. */
export function extentDamaged(label: string, { extent, info, fault, cause }: ExtentFault): VmckptError {
  const { offset, storedBytes } = info;
  return new VmckptError(
    'EXTENT_DAMAGED',
    `extent ${extent} of ${label} (${storedBytes} bytes at offset ${offset} of "${GENERATION_FILES.pages}") is damaged: ${fault}`,
    { hint: DAMAGE_HINT, cause },
  );
}
