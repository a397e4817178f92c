/**
 * Writes a generation into a directory: pages as they come, then the device state, and the manifest last, so that
 * a directory without a manifest is an unfinished one. Everything is fsynced when finish() resolves; giving the
 * directory its final name is the store's business.
 */
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { xxh3 } from '../native/index.js';
import { MAX_EXTENT_PAGES } from '../pages/contracts.js';
import { PAGE_BYTES, type RamLayout } from '../pages/layout.js';
import { BaseGeneration } from './base-generation.js';
import { compactPages, needsCompaction } from './compaction.js';
import type { Level } from './extent-codec.js';
import { fsyncPath, writeFailure, writeNewFile } from './files.js';
import {
  CHECKSUM_ALGORITHM,
  DEFAULT_EXTENT_PAGES,
  FORMAT_VERSION,
  GENERATION_FILES,
  NUMBERS_PER_PLACE,
  checksumText,
} from './format.js';
import {
  MAX_DEVICE_STATE_BYTES,
  encodeManifest,
  type Format2Manifest,
  type ManifestParts,
} from './manifest.js';
import { newId } from './pack-writer.js';
import type { Pack } from './manifest-schema.js';
import { leaveSparsePacks } from './sparse-packs.js';
import type { PageStore, ReadRequest } from './stretch.js';
import { PagesWriter, type PagesWriterOptions, type WrittenPages } from './pages-writer.js';

export interface CheckpointWriterOptions {
  readonly layout: RamLayout;
  /** zstd level 1–19, or `none`. */
  readonly level: Level;
  /** Pages compressed together: more is smaller, and slower to reach one of. 1–64; 8 by default, 4 for level `none`. */
  readonly extentPages?: number;
  /** Share what has not changed with the generation before. Without it the generation is one by itself. */
  readonly chain?: Chain | undefined;
}

export interface Chain {
  /** Of the newest generation of the name, if anything is to be shared with it. */
  readonly formerDir: string | undefined;
  /** Its id, if pages that are not put are to be what they are there. */
  readonly inherited?: string | undefined;
  /** Called when that one is damaged, and so nothing is shared with it. */
  readonly onDamage?: (error: VmckptError) => void;
}

export interface WriterStats {
  readonly dataPages: number;
  readonly fillPages: number;
  readonly zeroPages: number;
  readonly supersededPages: number;
  /** Compressed page data in the file so far. */
  readonly storedBytes: number;
}

export class CheckpointWriter implements PageStore {
  readonly #dir: string;
  readonly #layout: RamLayout;
  readonly #pagesOptions: PagesWriterOptions;
  #pages: PagesWriter;

  private constructor(dir: string, { layout, level, chain, ...options }: CheckpointWriterOptions) {
    const { pageCount } = layout;
    const { extentPages = defaultExtentPages(level, pageCount) } = options;
    const base =
      chain?.formerDir === undefined ? undefined : BaseGeneration.open(chain.formerDir, layout, chain);
    this.#dir = dir;
    this.#layout = layout;
    this.#pagesOptions = { pageCount, level, extentPages, base };
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

  /** Whether pages that are not put are what they are in the generation before. */
  get inherits(): boolean {
    return this.#pagesOptions.base?.isInherited === true;
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

  read(pages: Uint32Array, request: ReadRequest): Promise<number> {
    return this.#pages.read(pages, request);
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
      throw writeFailure(error, this.#dir);
    } finally {
      await this.#close();
    }
  }

  /** Ends writing; what is in the directory is of no use. */
  async abort(): Promise<void> {
    await this.#close();
  }

  async #close(): Promise<void> {
    await this.#pages.close();
    this.#pagesOptions.base?.close();
  }

  async #finishPages(): Promise<WrittenPages> {
    await this.#pages.drain();
    if (needsCompaction(this.#pages)) {
      const roomBytes = 2 * this.#layout.ramBytes;
      this.#pages = await compactPages(this.#dir, this.#pages, { ...this.#pagesOptions, roomBytes });
    }
    const { base } = this.#pagesOptions;
    const dropped = base === undefined ? new Set<Pack>() : await leaveSparsePacks(this.#pages, base);
    return this.#pages.finish(dropped);
  }

  #manifestOf(parts: ManifestParts, written: WrittenPages, deviceState: Uint8Array): Format2Manifest {
    const { counts, packs, newPackBytes, pageIndexRoot, pageChunksBytes } = written;
    const { extentPages, level, base } = this.#pagesOptions;
    const total = (key: 'extentCount' | 'fileBytes' | 'pageCount') =>
      packs.reduce((sum, pack) => sum + pack[key], 0);
    const sharedBytes = total('fileBytes') - newPackBytes;
    const ownBytes = newPackBytes + pageChunksBytes + deviceState.length;
    return {
      formatVersion: FORMAT_VERSION,
      ...parts,
      id: newId(),
      ...(sharedBytes > 0 && { parent: base!.manifest.id }),
      ram: {
        pageBytes: PAGE_BYTES,
        blocks: this.#layout.blocks.map(({ name, usedBytes }) => ({ name, usedBytes })),
      },
      sizes: {
        ramBytes: this.#layout.ramBytes,
        nonZeroBytes: (counts.data + counts.fill) * PAGE_BYTES,
        storedBytes: ownBytes + sharedBytes,
        deviceStateBytes: deviceState.length,
        ownBytes,
        sharedBytes,
      },
      pages: {
        extentPages: sharedBytes > 0 ? Math.max(extentPages, base!.manifest.pages.extentPages) : extentPages,
        level,
        extentCount: total('extentCount'),
        fileBytes: total('fileBytes'),
        dataPageCount: counts.data,
        fillPageCount: counts.fill,
        zeroPageCount: counts.zero,
        absentPageCount: counts.absent,
        supersededPageCount: total('pageCount') - counts.data,
      },
      packs: [...packs],
      checksums: {
        algorithm: CHECKSUM_ALGORITHM,
        pageIndexRoot: checksumText(pageIndexRoot),
        deviceState: checksumText(xxh3(deviceState)),
      },
    };
  }
}

/** A pack numbers its extents with 24 bits: of more memory than that, with room for older versions, more pages lie together. */
function defaultExtentPages(level: Level, pageCount: number): number {
  let extentPages: number = DEFAULT_EXTENT_PAGES[level === 'none' ? 'raw' : 'compressed'];
  while (extentPages < MAX_EXTENT_PAGES && pageCount / extentPages > NUMBERS_PER_PLACE / 2) extentPages *= 2;
  return extentPages;
}
