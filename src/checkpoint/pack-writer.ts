/**
 * Writes a pack: extents as they come, by several threads, and behind them, when all are there, their records, the chunks
 * of the page index that are new, and the tables of checksums.
 */
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { xxh3 } from '../native/index.js';
import { crypto } from '../util/crypto.js';
import { ChunkStore, bytesOf } from './chunk-store.js';
import { FILE_MODE, writeAt } from './files.js';
import {
  CHECKSUM_BYTES,
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
  packFile,
} from './format.js';
import type { Pack } from './manifest-schema.js';
import type { ExtentFile } from './page-files.js';

const CACHED_RECORD_CHUNKS = 8;

const fsync = promisify(fs.fsync);

export interface PageTable {
  /** For each chunk of the page index its checksum, and where it lies. */
  readonly bytes: Buffer;
  readonly root: bigint;
}

export class PackWriter {
  readonly id = newId();
  readonly place: number;
  readonly fd: number;
  /** Length so far, in its only element: threads take room from it. */
  readonly tail = new BigInt64Array(new SharedArrayBuffer(8));
  readonly #records: ChunkStore;
  #extentCount = 0;
  #pageCount = 0;

  constructor(dir: string, place: number) {
    this.place = place;
    this.fd = fs.openSync(path.join(dir, this.file), 'wx+', FILE_MODE);
    this.tail[0] = BigInt(HEADER_BYTES);
    this.#records = new ChunkStore({ shape: RECORD_CHUNKS, maxCachedChunks: CACHED_RECORD_CHUNKS, dir });
  }

  /** Its name. */
  get file(): string {
    return packFile(this.id);
  }

  /** Of extents that have a place in the file. */
  get storedBytes(): number {
    return Number(Atomics.load(this.tail, 0)) - HEADER_BYTES;
  }

  /** Takes the records of extents that are stored. @returns the number of the first; the others follow */
  addExtents(records: Uint32Array, count: number): number {
    const { entryWords, entriesPerChunk } = RECORD_CHUNKS;
    const first = this.#extentCount;
    for (let position = 0; position < count; position++) {
      const record = records.subarray(position * entryWords, (position + 1) * entryWords);
      const number = first + position;
      this.#records.chunkOf(number).set(record, (number % entriesPerChunk) * entryWords);
      this.#pageCount += record[RECORD.shape]! & 0xff;
    }
    this.#extentCount += count;
    return this.place * NUMBERS_PER_PLACE + first;
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

  /** Completes the file, which is not durable yet. @param pageCount of the RAM */
  finish(pages: ChunkStore, pageCount: number): { readonly pack: Pack; readonly table: PageTable } {
    const recordsOffset = Math.ceil((HEADER_BYTES + this.storedBytes) / HEADER_BYTES) * HEADER_BYTES;
    const recordSums = this.#writeChunks(this.#records, recordsOffset);
    const chunksOffset = recordsOffset + recordSums.length * RECORD_CHUNKS.chunkBytes;
    const { touched } = pages;
    const chunkSums = this.#writeChunks(pages, chunksOffset);
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
    };
    fs.ftruncateSync(this.fd, pack.fileBytes);
    return { pack, table: this.#pageTable(touched, chunkSums, chunkCountOf(PAGE_CHUNKS, pageCount)) };
  }

  sync(): Promise<void> {
    return fsync(this.fd);
  }

  close(): void {
    fs.closeSync(this.fd);
    this.#records.close();
  }

  /** Writes all chunks one behind the other; returns their checksums. */
  #writeChunks(store: ChunkStore, offset: number): bigint[] {
    const { entriesPerChunk, chunkBytes } = store.shape;
    return store.touched.map((number, at) => {
      const bytes = bytesOf(store.chunkOf(number * entriesPerChunk));
      writeAt(this.fd, bytes, offset + at * chunkBytes);
      return xxh3(bytes);
    });
  }

  #pageTable(touched: readonly number[], checksums: readonly bigint[], chunkCount: number): PageTable {
    const { entryBytes } = PAGE_CHUNKS_SPEC;
    const bytes = Buffer.alloc(chunkCount * entryBytes);
    for (let chunk = 0; chunk < chunkCount; chunk++)
      bytes.writeUInt32LE(NO_CHUNK, chunk * entryBytes + CHECKSUM_BYTES);
    for (const [at, chunk] of touched.entries()) {
      bytes.writeBigUInt64LE(checksums[at]!, chunk * entryBytes);
      bytes.writeUInt32LE(this.place * NUMBERS_PER_PLACE + at, chunk * entryBytes + CHECKSUM_BYTES);
    }
    return { bytes, root: xxh3(bytes) };
  }
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
