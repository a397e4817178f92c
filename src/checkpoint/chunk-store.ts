/**
 * The entries of an index that is being made, in chunks. A bounded number of them is in memory, so that an index may be
 * larger than the machine's memory allows; the others are in a file without a name, which ends with its process.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { EntryChunks } from './chunk-reader.js';
import { FILE_MODE, readAt, writeAt, writeFailure } from './files.js';
import type { ChunkShape } from './format.js';

export interface ChunkStoreOptions {
  readonly shape: ChunkShape;
  readonly maxCachedChunks: number;
  /** Where the file is made, if it is needed. */
  readonly dir: string;
  /** Gives a chunk what it has at first, if that is not zeros. */
  readonly begin?: ((number: number, words: Uint32Array) => void) | undefined;
}

export class ChunkStore implements EntryChunks {
  readonly shape: ChunkShape;
  readonly #options: ChunkStoreOptions;
  /** In order of use, oldest first; every one may differ from the file. */
  readonly #cached = new Map<number, Uint32Array>();
  /** The numbers of the chunks that the file has, at their number times their length. */
  readonly #spilled = new Set<number>();
  #fd: number | undefined;
  #currentNumber = -1;
  #current: Uint32Array = new Uint32Array(0);

  constructor(options: ChunkStoreOptions) {
    this.#options = options;
    this.shape = options.shape;
  }

  /** The words of the chunk that holds an entry, to be read and changed until the next call. @throws VmckptError NO_SPACE */
  chunkOf(entry: number): Uint32Array {
    const number = Math.floor(entry / this.#options.shape.entriesPerChunk);
    return number === this.#currentNumber ? this.#current : this.#select(number);
  }

  nonsense(entry: number, fault: string): Error {
    return new Error(`entry ${entry} of an index that is being made: ${fault}`);
  }

  /** The numbers of all chunks that were ever asked for, ascending. */
  get touched(): number[] {
    return [...new Set([...this.#spilled, ...this.#cached.keys()])].sort((a, b) => a - b);
  }

  close(): void {
    if (this.#fd !== undefined) fs.closeSync(this.#fd);
    this.#fd = undefined;
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
    const { maxCachedChunks, shape, begin } = this.#options;
    const words =
      this.#cached.size < maxCachedChunks ? new Uint32Array(shape.chunkBytes / 4) : this.#spillOldest();
    if (this.#spilled.has(number)) readAt(this.#fd!, bytesOf(words), number * shape.chunkBytes);
    else if (begin === undefined) words.fill(0);
    else begin(number, words);
    return words;
  }

  #spillOldest(): Uint32Array {
    const [number, words] = this.#cached.entries().next().value!;
    try {
      this.#fd ??= openNameless(this.#options.dir);
      writeAt(this.#fd, bytesOf(words), number * this.#options.shape.chunkBytes);
    } catch (error) {
      throw writeFailure(error, 'the index of the checkpoint’s pages');
    }
    this.#spilled.add(number);
    this.#cached.delete(number);
    return words;
  }
}

export function bytesOf(words: Uint32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

function openNameless(dir: string): number {
  const file = path.join(dir, `.index-${randomBytes(4).toString('hex')}`);
  const fd = fs.openSync(file, 'wx+', FILE_MODE);
  fs.unlinkSync(file);
  return fd;
}
