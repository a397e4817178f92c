/**
 * Reads an index file: opening reads its header and its table of checksums, whose own checksum (the root) comes
 * from the manifest; a chunk is read and verified when it is first used. A bounded number of chunks is kept; one that
 * comes back is verified again. Whether an entry makes sense is for whoever uses it: a hostile writer computes
 * checksums as well as we do.
 */
import fs from 'node:fs';
import { DAMAGE_HINT, VmckptError } from '../errors.js';
import { xxh3 } from '../native/index.js';
import { openRegular } from '../util/regular-file.js';
import { readAt } from './files.js';
import { CHUNK_BYTES, HEADER_BYTES, checksumText, verifyHeader, type IndexSpec } from './format.js';

export interface IndexReaderOptions {
  readonly path: string;
  /** Names the file in messages. */
  readonly label: string;
  readonly spec: IndexSpec;
  readonly entryCount: number;
  readonly root: bigint;
  readonly maxCachedChunks: number;
}

export class IndexReader {
  readonly #fd: number;
  readonly #options: IndexReaderOptions;
  readonly #table: Buffer;
  readonly #entryCount: number;
  readonly #chunkShift: number;
  /** By chunk number. */
  readonly #cached: (Uint32Array | undefined)[];
  /** The numbers of cached chunks, in the order in which they were loaded. */
  readonly #loaded: number[] = [];
  #currentNumber = -1;
  #current: Uint32Array = new Uint32Array(0);

  /** @throws VmckptError INDEX_DAMAGED, FORMAT_UNSUPPORTED, NOT_A_FILE, or the system's error when the file cannot be opened. */
  constructor(options: IndexReaderOptions) {
    this.#options = options;
    this.#entryCount = options.entryCount;
    this.#chunkShift = Math.log2(options.spec.entriesPerChunk);
    this.#fd = openRegular(options.path);
    try {
      this.#table = this.#readTable();
    } catch (error) {
      fs.closeSync(this.#fd);
      throw error;
    }
    this.#cached = new Array<Uint32Array | undefined>(this.chunkCount).fill(undefined);
  }

  get entryCount(): number {
    return this.#options.entryCount;
  }

  get chunkCount(): number {
    return this.#table.length / 8;
  }

  /** The words of the chunk that holds an entry, valid until the next call. */
  chunkOf(entry: number): Uint32Array {
    if (!(entry >= 0 && entry < this.#entryCount))
      throw new RangeError(`${this.#options.label}: entry ${entry} asked for, ${this.#entryCount} there`);
    const number = entry >>> this.#chunkShift;
    if (number === this.#currentNumber) return this.#current;
    const words = this.#cached[number] ?? this.#load(number);
    this.#currentNumber = number;
    this.#current = words;
    return words;
  }

  /** The error for an entry that its checksum has not shown to be wrong. */
  nonsense(entry: number, fault: string): VmckptError {
    return damaged(this.#options.label, `entry ${entry}: ${fault}`);
  }

  close(): void {
    fs.closeSync(this.#fd);
  }

  #readTable(): Buffer {
    const { label, spec, entryCount, root } = this.#options;
    const chunkCount = Math.ceil(entryCount / spec.entriesPerChunk);
    const tableBytes = chunkCount * 8;
    const tableOffset = HEADER_BYTES + chunkCount * CHUNK_BYTES;
    const { size } = fs.fstatSync(this.#fd);
    const header = Buffer.alloc(HEADER_BYTES);
    readAt(this.#fd, header, 0);
    verifyHeader(header, spec, { entryCount, file: label });
    if (size !== tableOffset + tableBytes)
      throw damaged(label, `${size} bytes long, ${tableOffset + tableBytes} expected`);
    const table = Buffer.alloc(tableBytes);
    readAt(this.#fd, table, tableOffset);
    const found = xxh3(table);
    if (found !== root)
      throw damaged(label, `the root is ${checksumText(found)}, ${checksumText(root)} expected`);
    return table;
  }

  #load(number: number): Uint32Array {
    const { label, maxCachedChunks } = this.#options;
    const words = this.#loaded.length < maxCachedChunks ? new Uint32Array(CHUNK_BYTES / 4) : this.#evict();
    // Whatever goes wrong below, no half-read chunk may stay current.
    this.#currentNumber = -1;
    const bytes = new Uint8Array(words.buffer);
    const offset = HEADER_BYTES + number * CHUNK_BYTES;
    try {
      readAt(this.#fd, bytes, offset);
    } catch (error) {
      throw damaged(label, `chunk ${number} at offset ${offset} cannot be read`, error);
    }
    const expected = this.#table.readBigUInt64LE(number * 8);
    const found = xxh3(bytes);
    if (found !== expected)
      throw damaged(
        label,
        `chunk ${number} at offset ${offset} has the checksum ${checksumText(found)}, ${checksumText(expected)} expected`,
      );
    this.#cached[number] = words;
    this.#loaded.push(number);
    return words;
  }

  #evict(): Uint32Array {
    const number = this.#loaded.shift()!;
    const words = this.#cached[number]!;
    this.#cached[number] = undefined;
    return words;
  }
}

function damaged(label: string, message: string, cause?: unknown): VmckptError {
  return new VmckptError('INDEX_DAMAGED', `${label}: ${message}`, {
    hint: DAMAGE_HINT,
    cause,
  });
}
