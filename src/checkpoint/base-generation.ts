/** What a new generation can take over from the one before: entries of pages that have not changed, and packs. */
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import type { RamLayout } from '../pages/layout.js';
import { bytesOf } from './chunk-store.js';
import { linkOrCopy } from './files.js';
import {
  CHECKSUM_BYTES,
  NO_CHUNK,
  NUMBERS_PER_PLACE,
  PAGE_CHUNKS,
  PAGE_CHUNKS_SPEC,
  packFile,
} from './format.js';
import type { Pack } from './manifest-schema.js';
import { generationLabel, readManifest, type Format2Manifest } from './manifest.js';
import { openPageFiles, type ExtentFile, type OpenPageFiles } from './page-files.js';
import { PageHashes } from './page-hashes.js';
import { PagesReader } from './pages-reader.js';

interface BaseOptions {
  /** The id of the generation that is inherited, if it is this one. */
  readonly inherited?: string | undefined;
  /** Called with the damage that is found without reading its pages. */
  readonly onDamage?: ((error: VmckptError) => void) | undefined;
}

interface Opened {
  readonly manifest: Format2Manifest;
  readonly files: OpenPageFiles;
  readonly isInherited: boolean;
}

export interface WantedChunk {
  readonly chunk: number;
  readonly checksum: bigint;
  readonly bytes: Uint8Array;
  /** Packs that it must not be in. */
  readonly dropped: ReadonlySet<Pack>;
}

export class BaseGeneration {
  readonly dir: string;
  readonly manifest: Format2Manifest;
  readonly reader: PagesReader;
  readonly hashes: PageHashes;
  /** Pages that are not put are what they are here. */
  readonly isInherited: boolean;
  readonly #files: OpenPageFiles;

  private constructor(dir: string, { manifest, files, isInherited }: Opened) {
    const pageCount = manifest.sizes.ramBytes / manifest.ram.pageBytes;
    const { extentPages } = manifest.pages;
    this.dir = dir;
    const label = generationLabel(dir);
    this.manifest = manifest;
    this.isInherited = isInherited;
    this.#files = files;
    this.reader = new PagesReader({ label, pageCount, extentPages }, files);
    const { packs } = manifest;
    this.hashes = new PageHashes({ label, catalog: this.reader, packs, extentFiles: files.extentFiles });
  }

  /**
   * Undefined if nothing can be taken over: another machine, an earlier format, or damage.
   */
  static open(
    dir: string,
    layout: RamLayout,
    { inherited, onDamage = () => undefined }: BaseOptions = {},
  ): BaseGeneration | undefined {
    try {
      const manifest = readManifest(dir);
      if (manifest.formatVersion === 1 || !isSameLayout(manifest, layout)) return undefined;
      const isInherited = manifest.id === inherited;
      const files = openPageFiles(dir, manifest);
      try {
        // Otherwise nearly every entry is taken over by itself.
        if (!isInherited) verifyPageIndex(files, layout.pageCount);
        return new BaseGeneration(dir, { manifest, files, isInherited });
      } catch (error) {
        files.close();
        throw error;
      }
    } catch (error) {
      if (!(error instanceof VmckptError)) throw error;
      onDamage(error);
      return undefined;
    }
  }

  get extentFiles(): readonly ExtentFile[] {
    return this.#files.extentFiles;
  }

  packAt(place: number): Pack | undefined {
    return this.manifest.packs.find((pack) => pack.place === place);
  }

  /** The smallest place that none of its packs has. */
  get freePlace(): number {
    const taken = new Set(this.manifest.packs.map(({ place }) => place));
    let place = 0;
    while (taken.has(place)) place++;
    return place;
  }

  /** The words of a chunk of its page index, valid until the next call. @throws VmckptError INDEX_DAMAGED */
  chunk(number: number): Uint32Array {
    return this.#files.pages.chunkOf(number * PAGE_CHUNKS.entriesPerChunk);
  }

  /** A copy of its table of page chunks. */
  copyTable(): Buffer {
    return Buffer.from(this.#files.pageTable!);
  }

  /** The chunks of its page index that lie in these packs. */
  chunksIn(packs: ReadonlySet<Pack>): number[] {
    const places = new Set([...packs].map(({ place }) => place));
    const table = this.#files.pageTable!;
    const found: number[] = [];
    for (let chunk = 0; chunk * PAGE_CHUNKS_SPEC.entryBytes < table.length; chunk++) {
      const place = table.readUInt32LE(chunk * PAGE_CHUNKS_SPEC.entryBytes + CHECKSUM_BYTES);
      if (place !== NO_CHUNK && places.has(Math.floor(place / NUMBERS_PER_PLACE))) found.push(chunk);
    }
    return found;
  }

  /** How many of its pages lie in each place. @throws VmckptError INDEX_DAMAGED */
  livePages(): Map<number, number> {
    const { packs, sizes, ram } = this.manifest;
    const live = new Map(packs.map(({ place, usedPageCount = 0 }) => [place, usedPageCount]));
    if (packs.every(({ usedPageCount }) => usedPageCount !== undefined)) return live;
    live.clear();
    for (let page = 0; page < sizes.ramBytes / ram.pageBytes; page++) {
      const [entry, extent] = this.reader.entryOf(page);
      if ((entry & 0xff) !== PAGE_KINDS.data) continue;
      const place = Math.floor(extent / NUMBERS_PER_PLACE);
      live.set(place, (live.get(place) ?? 0) + 1);
    }
    return live;
  }

  /** Where it has a chunk of the page index that is the same; undefined if it has another one. */
  placeOfSame({ chunk, checksum, bytes, dropped }: WantedChunk): number | undefined {
    const at = chunk * PAGE_CHUNKS_SPEC.entryBytes;
    const table = this.#files.pageTable!;
    const place = table.readUInt32LE(at + CHECKSUM_BYTES);
    if (place === NO_CHUNK || table.readBigUInt64LE(at) !== checksum) return undefined;
    if (dropped.has(this.packAt(Math.floor(place / NUMBERS_PER_PLACE))!)) return undefined;
    return Buffer.compare(bytesOf(this.chunk(chunk)), bytes) === 0 ? place : undefined;
  }

  /** Gives `dir` these packs of its own: hard links, where the file system has them. @throws VmckptError NO_SPACE */
  async sharePacks(dir: string, packs: readonly Pack[]): Promise<void> {
    for (const { id } of packs)
      await linkOrCopy(path.join(this.dir, packFile(id)), path.join(dir, packFile(id)));
  }

  close(): void {
    this.#files.close();
  }
}

/** @throws VmckptError INDEX_DAMAGED */
function verifyPageIndex({ pages, pagesPerChunk }: OpenPageFiles, pageCount: number): void {
  for (let page = 0; page < pageCount; page += pagesPerChunk) pages.chunkOf(page);
}

function isSameLayout({ ram }: Format2Manifest, { blocks }: RamLayout): boolean {
  const shape = (list: readonly { name: string; usedBytes: number }[]) =>
    JSON.stringify(list.map(({ name, usedBytes }) => [name, usedBytes]));
  return shape(ram.blocks) === shape(blocks);
}
