/**
 * How an extent's pages become stored bytes and come back. The checksum covers the stored bytes and is verified
 * before the decompressor sees them, so that damage never reaches it.
 */
import { xxh3, zstd, type Zstd } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { CODECS, checksumText, type ExtentInfo } from './format.js';

/** Compression must save this share of an extent, or it costs more than it gives at the time of a fault. */
const WORTHWHILE_SAVING = 0.03;

export type Level = number | 'none';
export type StoredExtent = Pick<ExtentInfo, 'storedBytes' | 'codec'>;

/** The room that `ExtentEncoder.encode` needs for an extent of `bytes` bytes. */
export function encodeBound(bytes: number): number {
  return zstd().bound(bytes);
}

type Compress = ReturnType<Zstd['compressor']>;
type Decompress = ReturnType<Zstd['decompressor']>;

export class ExtentEncoder {
  readonly #compress: Compress | undefined;

  constructor(level: Level) {
    if (level !== 'none') this.#compress = zstd().compressor(level);
  }

  /** Encodes `pages` to the start of `into`, which has room for `encodeBound(pages.length)` bytes. */
  encode(pages: Uint8Array, into: Uint8Array): StoredExtent {
    if (this.#compress !== undefined) {
      const storedBytes = this.#compress(pages, into);
      if (storedBytes <= pages.length * (1 - WORTHWHILE_SAVING)) return { storedBytes, codec: CODECS.zstd };
    }
    into.set(pages);
    return { storedBytes: pages.length, codec: CODECS.raw };
  }
}

export class ExtentDecoder {
  #decompress: Decompress | undefined;

  /**
   * Verifies `stored` and decodes it to the start of `into`, which has room for the extent's pages. Returns what is
   * wrong, or undefined when the pages are there.
   */
  decode(extent: ExtentInfo, stored: Uint8Array, into: Uint8Array): string | undefined {
    if (stored.length !== extent.storedBytes)
      return `${extent.storedBytes} bytes expected, the file ends after ${stored.length}`;
    const found = xxh3(stored);
    if (found !== extent.checksum)
      return `the checksum is ${checksumText(found)}, ${checksumText(extent.checksum)} expected`;
    const expectedBytes = extent.pageCount * PAGE_BYTES;
    if (extent.codec === CODECS.raw) {
      into.set(stored);
      return undefined;
    }
    this.#decompress ??= zstd().decompressor();
    try {
      const decodedBytes = this.#decompress(stored, into.subarray(0, expectedBytes));
      return decodedBytes === expectedBytes
        ? undefined
        : `${decodedBytes} bytes after decompression, ${expectedBytes} expected`;
    } catch (error) {
      return `decompression failed: ${error instanceof Error ? error.message : String(error)}`;
    }
  }
}
