/**
 * Writes an index file in place: a header, chunks of 64 KiB, a table with the checksum of each chunk. Only a
 * bounded number of chunks is in memory, so that an index may be larger than the machine's memory allows.
 */
import fs from 'node:fs';
import { promisify } from 'node:util';
import { xxh3 } from '../native/index.js';
import { FILE_MODE, readAt, writeAt } from './files.js';
import { CHUNK_BYTES, HEADER_BYTES, encodeHeader, type IndexSpec } from './format.js';

const fsync = promisify(fs.fsync);

export interface WrittenIndex {
  readonly entryCount: number;
  readonly fileBytes: number;
  /** The checksum of the table of chunk checksums. */
  readonly root: bigint;
}

export class IndexWriter {
  readonly #fd: number;
  readonly #spec: IndexSpec;
  readonly #maxCached: number;
  /** In order of use, oldest first; every one may differ from the file. */
  readonly #cached = new Map<number, Uint32Array>();
  /** Checksums of the chunks as they are in the file; absent ones were never touched. */
  readonly #checksums = new Map<number, bigint>();
  #currentNumber = -1;
  #current: Uint32Array = new Uint32Array(0);

  constructor(path: string, spec: IndexSpec, maxCachedChunks: number) {
    this.#fd = fs.openSync(path, 'wx+', FILE_MODE);
    this.#spec = spec;
    this.#maxCached = maxCachedChunks;
  }

  /** The words of the chunk that holds an entry, to be read and changed until the next call. */
  chunkOf(entry: number): Uint32Array {
    const number = Math.floor(entry / this.#spec.entriesPerChunk);
    return number === this.#currentNumber ? this.#current : this.#select(number);
  }

  /** Writes what is missing, the table and the header. Not yet fsynced. */
  finish(entryCount: number): WrittenIndex {
    for (const [number, words] of this.#cached) this.#write(number, words);
    this.#cached.clear();
    this.#currentNumber = -1;
    const chunkCount = Math.ceil(entryCount / this.#spec.entriesPerChunk);
    const untouched = xxh3(new Uint8Array(CHUNK_BYTES));
    const table = Buffer.alloc(chunkCount * 8);
    for (let number = 0; number < chunkCount; number++)
      table.writeBigUInt64LE(this.#checksums.get(number) ?? untouched, number * 8);
    const tableOffset = HEADER_BYTES + chunkCount * CHUNK_BYTES;
    fs.ftruncateSync(this.#fd, tableOffset);
    writeAt(this.#fd, table, tableOffset);
    writeAt(this.#fd, encodeHeader(this.#spec, entryCount), 0);
    return { entryCount, fileBytes: tableOffset + table.length, root: xxh3(table) };
  }

  sync(): Promise<void> {
    return fsync(this.#fd);
  }

  close(): void {
    fs.closeSync(this.#fd);
  }

  #select(number: number): Uint32Array {
    const words = this.#cached.get(number) ?? this.#load(number);
    this.#cached.delete(number);
    this.#cached.set(number, words);
    this.#currentNumber = number;
    this.#current = words;
    return words;
  }

  #load(number: number): Uint32Array {
    const words = this.#cached.size < this.#maxCached ? new Uint32Array(CHUNK_BYTES / 4) : this.#evict();
    if (this.#checksums.has(number)) readAt(this.#fd, bytesOf(words), HEADER_BYTES + number * CHUNK_BYTES);
    else words.fill(0);
    return words;
  }

  #evict(): Uint32Array {
    const [number, words] = this.#cached.entries().next().value!;
    this.#write(number, words);
    this.#cached.delete(number);
    return words;
  }

  #write(number: number, words: Uint32Array): void {
    const bytes = bytesOf(words);
    writeAt(this.#fd, bytes, HEADER_BYTES + number * CHUNK_BYTES);
    this.#checksums.set(number, xxh3(bytes));
  }
}

function bytesOf(words: Uint32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}
