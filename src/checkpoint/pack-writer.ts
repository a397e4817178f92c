/**
 * Writes a pack: extents as they come, by several threads, and behind them, when all are there, the hashes of their
 * pages, their records, the chunks of the page index that are new, and the tables of checksums.
 */
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { VmckptError } from '../errors.js';
import { PAGE_HASH_BYTES, xxh3 } from '../native/index.js';
import { crypto } from '../util/crypto.js';
import type { BaseGeneration } from './base-generation.js';
import { ChunkStore, bytesOf } from './chunk-store.js';
import { FILE_MODE, writeAt } from './files.js';
import {
  CHECKSUM_BYTES,
  HASH_CHUNKS,
  HEADER_BYTES,
  NO_CHUNK,
  NUMBERS_PER_PLACE,
  PACK_SPEC,
  PAGE_CHUNKS,
  PAGE_CHUNKS_SPEC,
  RECORD,
  RECORD_CHUNKS,
  checksumText,
  chunkCountOf,
  encodeHeader,
  hashTableBytes,
  packFile,
} from './format.js';
import type { Pack } from './manifest-schema.js';
import type { ExtentFile } from './page-files.js';

const CACHED_RECORD_CHUNKS = 8;
const CACHED_HASH_CHUNKS = 32;
const HASH_WORDS = PAGE_HASH_BYTES / 4;

const fsync = promisify(fs.fsync);

export interface PageTable {
  /** For each chunk of the page index its checksum, and where it lies. */
  readonly bytes: Buffer;
  readonly root: bigint;
}

/** Where a page lies in the pack. */
export interface StoredPage {
  readonly extent: number;
  readonly slot: number;
}

export interface PageIndex {
  readonly chunks: ChunkStore;
  /** Of the RAM. */
  readonly pageCount: number;
  readonly base: BaseGeneration | undefined;
  /** Packs of the base that are not taken over. */
  readonly dropped: ReadonlySet<Pack>;
}

export class PackWriter {
  readonly id = newId();
  readonly place: number;
  readonly fd: number;
  /** Length so far, in its only element: threads take room from it. */
  readonly tail = new BigInt64Array(new SharedArrayBuffer(8));
  readonly #extentPages: number;
  readonly #records: ChunkStore;
  readonly #hashes: ChunkStore;
  #extentCount = 0;
  #pageCount = 0;

  constructor(dir: string, { place, extentPages }: { readonly place: number; readonly extentPages: number }) {
    this.place = place;
    this.#extentPages = extentPages;
    this.fd = fs.openSync(path.join(dir, this.file), 'wx+', FILE_MODE);
    this.tail[0] = BigInt(HEADER_BYTES);
    this.#records = new ChunkStore({ shape: RECORD_CHUNKS, maxCachedChunks: CACHED_RECORD_CHUNKS, dir });
    this.#hashes = new ChunkStore({ shape: HASH_CHUNKS, maxCachedChunks: CACHED_HASH_CHUNKS, dir });
  }

  /** Its name. */
  get file(): string {
    return packFile(this.id);
  }

  /** Of extents that have a place in the file. */
  get storedBytes(): number {
    return Number(Atomics.load(this.tail, 0)) - HEADER_BYTES;
  }

  /**
   * Takes the records of extents that are stored.
   * @returns the number of the first; the others follow
   * @throws VmckptError FAILED when the pack is full
   */
  addExtents(records: Uint32Array, count: number): number {
    const { entryWords, entriesPerChunk } = RECORD_CHUNKS;
    const first = this.#extentCount;
    if (first + count > NUMBERS_PER_PLACE)
      throw new VmckptError(
        'FAILED',
        `a pack holds at most ${NUMBERS_PER_PLACE} extents, and the save has more`,
      );
    for (let position = 0; position < count; position++) {
      const record = records.subarray(position * entryWords, (position + 1) * entryWords);
      const number = first + position;
      this.#records.chunkOf(number).set(record, (number % entriesPerChunk) * entryWords);
      this.#pageCount += record[RECORD.shape]! & 0xff;
    }
    this.#extentCount += count;
    return this.place * NUMBERS_PER_PLACE + first;
  }

  /** @param from of the page's hash in `hashes`, in hashes */
  setHash({ extent, slot }: StoredPage, hashes: Uint32Array, from: number): void {
    const number = (extent % NUMBERS_PER_PLACE) * this.#extentPages + slot;
    const at = (number % HASH_CHUNKS.entriesPerChunk) * HASH_WORDS;
    this.#hashes.chunkOf(number).set(hashes.subarray(from * HASH_WORDS, (from + 1) * HASH_WORDS), at);
  }

  /** What is in it so far, to be read while it is written. */
  get extents(): ExtentFile {
    return {
      place: this.place,
      extentCount: this.#extentCount,
      records: this.#records,
      fd: this.fd,
      name: this.file,
      endOffset: HEADER_BYTES + this.storedBytes,
    };
  }

  /** Completes the file with what of the page index `base` does not have. It is not durable yet. */
  finish(index: PageIndex): { readonly pack: Pack; readonly table: PageTable } {
    const extentsEnd = Math.ceil((HEADER_BYTES + this.storedBytes) / HEADER_BYTES) * HEADER_BYTES;
    const entryCount = this.#extentCount * this.#extentPages;
    const hashChunks = chunkCountOf(HASH_CHUNKS, entryCount);
    const hashesOffset = extentsEnd + hashTableBytes(hashChunks);
    const hashTable = Buffer.alloc(hashesOffset - extentsEnd);
    hashTable.set(tableOf(this.#writeChunks(this.#hashes, { offset: hashesOffset, entryCount })));
    writeAt(this.fd, hashTable, extentsEnd);
    const recordsOffset = hashesOffset + hashChunks * HASH_CHUNKS.chunkBytes;
    const recordSums = this.#writeChunks(this.#records, {
      offset: recordsOffset,
      entryCount: this.#extentCount,
    });
    const chunksOffset = recordsOffset + recordSums.length * RECORD_CHUNKS.chunkBytes;
    const { table, chunkSums } = this.#writePageIndex(chunksOffset, index);
    const tablesOffset = chunksOffset + chunkSums.length * PAGE_CHUNKS.chunkBytes;
    const recordTable = tableOf(recordSums);
    const chunkTable = tableOf(chunkSums);
    writeAt(this.fd, Buffer.concat([recordTable, chunkTable]), tablesOffset);
    writeAt(this.fd, encodeHeader(PACK_SPEC, { entryCount: this.#extentCount, id: this.id }), 0);
    const pack = {
      place: this.place,
      id: this.id,
      fileBytes: tablesOffset + recordTable.length + chunkTable.length,
      extentCount: this.#extentCount,
      pageCount: this.#pageCount,
      chunkCount: chunkSums.length,
      recordsRoot: checksumText(xxh3(recordTable)),
      chunksRoot: checksumText(xxh3(chunkTable)),
      pageHashes: { perExtent: this.#extentPages, root: checksumText(xxh3(hashTable)) },
    };
    fs.ftruncateSync(this.fd, pack.fileBytes);
    return { pack, table: { bytes: table, root: xxh3(table) } };
  }

  sync(): Promise<void> {
    return fsync(this.fd);
  }

  close(): void {
    fs.closeSync(this.fd);
    this.#records.close();
    this.#hashes.close();
  }

  /** Writes the chunks of so many entries one behind the other. @returns their checksums */
  #writeChunks(
    store: ChunkStore,
    { offset, entryCount }: { readonly offset: number; readonly entryCount: number },
  ): bigint[] {
    const { shape } = store;
    return Array.from({ length: chunkCountOf(shape, entryCount) }, (_, chunk) => {
      const bytes = chunkBytes(store, chunk);
      // Behind the last entry the file has a hole.
      const usedBytes = Math.min(shape.chunkBytes, entryCount * shape.entryBytes - chunk * shape.chunkBytes);
      writeAt(this.fd, bytes.subarray(0, usedBytes), offset + chunk * shape.chunkBytes);
      return xxh3(bytes);
    });
  }

  /** Writes what of the page index `base` does not have, one chunk behind the other. */
  #writePageIndex(
    chunksOffset: number,
    { chunks, pageCount, base, dropped }: PageIndex,
  ): { readonly table: Buffer; readonly chunkSums: readonly bigint[] } {
    const chunkSums: bigint[] = [];
    const table = base?.isInherited === true ? base.copyTable() : emptyTable(pageCount);
    for (const chunk of chunks.touched) {
      const bytes = chunkBytes(chunks, chunk);
      const checksum = xxh3(bytes);
      let place = base?.placeOfSame({ chunk, checksum, bytes, dropped });
      if (place === undefined) {
        writeAt(this.fd, bytes, chunksOffset + chunkSums.length * bytes.length);
        place = this.place * NUMBERS_PER_PLACE + chunkSums.push(checksum) - 1;
      }
      table.writeBigUInt64LE(checksum, chunk * PAGE_CHUNKS_SPEC.entryBytes);
      table.writeUInt32LE(place, chunk * PAGE_CHUNKS_SPEC.entryBytes + CHECKSUM_BYTES);
    }
    return { table, chunkSums };
  }
}

function chunkBytes(store: ChunkStore, chunk: number): Uint8Array {
  return bytesOf(store.chunkOf(chunk * store.shape.entriesPerChunk));
}

/** A table of page chunks, none of which is anywhere. */
function emptyTable(pageCount: number): Buffer {
  const { entryBytes } = PAGE_CHUNKS_SPEC;
  const table = Buffer.alloc(chunkCountOf(PAGE_CHUNKS, pageCount) * entryBytes);
  for (let at = CHECKSUM_BYTES; at < table.length; at += entryBytes) table.writeUInt32LE(NO_CHUNK, at);
  return table;
}

const ID_BYTES = 16;

/** 32 random hexadecimal digits. */
export function newId(): string {
  return crypto().randomBytes(ID_BYTES).toString('hex');
}

function tableOf(checksums: readonly bigint[]): Buffer {
  const table = Buffer.alloc(checksums.length * CHECKSUM_BYTES);
  for (const [at, checksum] of checksums.entries()) table.writeBigUInt64LE(checksum, at * CHECKSUM_BYTES);
  return table;
}
