/**
 * Writes a generation into a directory: pages as they come, then the device state, and the manifest last, so that
 * a directory without a manifest is an unfinished one. Everything is fsynced when finish() resolves; giving the
 * directory its final name is the store's business.
 */
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { xxh3 } from '../native/index.js';
import type { PageSink } from '../pages/contracts.js';
import { PAGE_BYTES, type RamLayout } from '../pages/layout.js';
import { compactPages, needsCompaction } from './compaction.js';
import type { Level } from './extent-codec.js';
import { fsyncPath, writeFailure, writeNewFile } from './files.js';
import {
  CHECKSUM_ALGORITHM,
  DEFAULT_EXTENT_PAGES,
  FORMAT_VERSION,
  GENERATION_FILES,
  checksumText,
} from './format.js';
import {
  MAX_DEVICE_STATE_BYTES,
  encodeManifest,
  type Format2Manifest,
  type ManifestParts,
} from './manifest.js';
import { newId } from './pack-writer.js';
import type { PageCounts } from './page-entries.js';
import { PagesWriter, type PagesWriterOptions, type WrittenPages } from './pages-writer.js';

export interface CheckpointWriterOptions {
  readonly layout: RamLayout;
  /** zstd level 1–19, or `none`. */
  readonly level: Level;
  /** Pages compressed together: more is smaller, and slower to reach one of. 1–64; 8 by default, 4 for level `none`. */
  readonly extentPages?: number;
}

export interface WriterStats {
  readonly dataPages: number;
  readonly fillPages: number;
  readonly zeroPages: number;
  readonly supersededPages: number;
  /** Compressed page data in the file so far. */
  readonly storedBytes: number;
}

export class CheckpointWriter implements PageSink {
  readonly #dir: string;
  readonly #layout: RamLayout;
  readonly #pagesOptions: PagesWriterOptions;
  #pages: PagesWriter;

  private constructor(
    dir: string,
    { layout, level, extentPages = defaultExtentPages(level) }: CheckpointWriterOptions,
  ) {
    this.#dir = dir;
    this.#layout = layout;
    this.#pagesOptions = { pageCount: layout.pageCount, level, extentPages };
    this.#pages = new PagesWriter(dir, this.#pagesOptions);
  }

  /** `dir` exists and is empty. @throws VmckptError NO_SPACE, STORE_NOT_WRITABLE, FAILED */
  static create(dir: string, options: CheckpointWriterOptions): CheckpointWriter {
    try {
      return new CheckpointWriter(dir, options);
    } catch (error) {
      throw writeFailure(error, dir);
    }
  }

  get stats(): WriterStats {
    const { data, fill, zero, superseded } = this.#pages.counts;
    return {
      dataPages: data,
      fillPages: fill,
      zeroPages: zero,
      supersededPages: superseded,
      storedBytes: this.#pages.storedBytes,
    };
  }

  fill(page: number, byte: number): void {
    this.#pages.fill(page, byte);
  }

  /** A page of one repeated byte is found out and stored as such. */
  data(page: number, bytes: Uint8Array, start: number): void {
    this.#pages.data(page, bytes, start);
  }

  /** @throws VmckptError what has gone wrong in writing so far: NO_SPACE, FAILED */
  ready(): Promise<void> {
    return this.#pages.ready();
  }

  /**
   * Completes the generation and makes it durable. The writer is closed then, also after an error.
   * @throws VmckptError NO_SPACE, FAILED
   */
  async finish(parts: ManifestParts, deviceState: Uint8Array): Promise<Format2Manifest> {
    if (deviceState.length > MAX_DEVICE_STATE_BYTES)
      throw new VmckptError(
        'FAILED',
        `${deviceState.length} bytes of device state, at most ${MAX_DEVICE_STATE_BYTES} expected`,
      );
    try {
      const written = await this.#finishPages();
      await writeNewFile(path.join(this.#dir, GENERATION_FILES.deviceState), deviceState);
      const manifest = this.#manifestOf(parts, written, deviceState);
      await writeNewFile(path.join(this.#dir, GENERATION_FILES.manifest), encodeManifest(manifest));
      await fsyncPath(this.#dir);
      return manifest;
    } catch (error) {
      await this.#pages.close();
      throw writeFailure(error, this.#dir);
    }
  }

  /** Ends writing; what is in the directory is of no use. */
  async abort(): Promise<void> {
    await this.#pages.close();
  }

  async #finishPages(): Promise<WrittenPages> {
    await this.#pages.drain();
    if (needsCompaction(this.#pages)) {
      const roomBytes = 2 * this.#layout.ramBytes;
      this.#pages = await compactPages(this.#dir, this.#pages, { ...this.#pagesOptions, roomBytes });
    }
    const written = await this.#pages.finish();
    await this.#pages.close();
    return written;
  }

  #manifestOf(parts: ManifestParts, written: WrittenPages, deviceState: Uint8Array): Format2Manifest {
    const { counts, pack, pageIndexRoot, pageChunksBytes } = written;
    const { extentPages, level } = this.#pagesOptions;
    const { extentCount, fileBytes } = pack;
    const ownBytes = fileBytes + pageChunksBytes + deviceState.length;
    return {
      formatVersion: FORMAT_VERSION,
      ...parts,
      id: newId(),
      ram: {
        pageBytes: PAGE_BYTES,
        blocks: this.#layout.blocks.map(({ name, usedBytes }) => ({ name, usedBytes })),
      },
      sizes: {
        ramBytes: this.#layout.ramBytes,
        nonZeroBytes: (counts.data + counts.fill) * PAGE_BYTES,
        storedBytes: ownBytes,
        deviceStateBytes: deviceState.length,
        ownBytes,
        sharedBytes: 0,
      },
      pages: { extentPages, level, extentCount, fileBytes, ...pageCounts(counts) },
      packs: [pack],
      checksums: {
        algorithm: CHECKSUM_ALGORITHM,
        pageIndexRoot: checksumText(pageIndexRoot),
        deviceState: checksumText(xxh3(deviceState)),
      },
    };
  }
}

function defaultExtentPages(level: Level): number {
  return level === 'none' ? DEFAULT_EXTENT_PAGES.raw : DEFAULT_EXTENT_PAGES.compressed;
}

function pageCounts({ absent, data, fill, superseded, zero }: PageCounts) {
  return {
    dataPageCount: data,
    fillPageCount: fill,
    zeroPageCount: zero,
    absentPageCount: absent,
    supersededPageCount: superseded,
  };
}
