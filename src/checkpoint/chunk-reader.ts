/**
 * Reads the entries of an index, which lie in chunks. A chunk is read and verified when it is first used. A bounded
 * number of chunks is kept; one that comes back is verified again. Whether an entry makes sense is for its user to
 * check: a hostile writer computes checksums as well as we do.
 */
import { DAMAGE_HINT, VmckptError } from '../errors.js';
import { xxh3 } from '../native/index.js';
import { readAt } from './files.js';
import { checksumText, chunkCountOf, type ChunkShape } from './format.js';

/** Entries by number. */
export interface EntryChunks {
  /** The words of the chunk that holds an entry, valid until the next call. */
  chunkOf(entry: number): Uint32Array;
  /** The error for an entry that its checksum has not shown to be wrong. */
  nonsense(entry: number, fault: string): Error;
}

export interface ChunkPlace {
  readonly fd: number;
  readonly offset: number;
  readonly checksum: bigint;
  /** Names the file in messages. */
  readonly file: string;
}

export interface ChunkReaderOptions {
  /** Names the entries in messages. */
  readonly label: string;
  readonly shape: ChunkShape;
  readonly entryCount: number;
  /** Where a chunk lies; undefined if it lies nowhere and is all zeros. @throws VmckptError INDEX_DAMAGED */
  readonly placeOf: (chunk: number) => ChunkPlace | undefined;
  readonly maxCachedChunks: number;
}

export class ChunkReader implements EntryChunks {
  readonly #options: ChunkReaderOptions;
  readonly #entryCount: number;
  readonly #chunkShift: number;
  /** By chunk number. */
  readonly #cached: (Uint32Array | undefined)[];
  /** The numbers of cached chunks, in the order in which they were loaded. */
  readonly #loaded: number[] = [];
  #currentNumber = -1;
  #current: Uint32Array = new Uint32Array(0);

  constructor(options: ChunkReaderOptions) {
    this.#options = options;
    this.#entryCount = options.entryCount;
    this.#chunkShift = Math.log2(options.shape.entriesPerChunk);
    const chunkCount = chunkCountOf(options.shape, options.entryCount);
    this.#cached = new Array<Uint32Array | undefined>(chunkCount).fill(undefined);
  }

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

  nonsense(entry: number, fault: string): VmckptError {
    return indexDamaged(this.#options.label, `entry ${entry}: ${fault}`);
  }

  #load(number: number): Uint32Array {
    const { maxCachedChunks, placeOf, shape } = this.#options;
    const place = placeOf(number);
    const words =
      this.#loaded.length < maxCachedChunks ? new Uint32Array(shape.chunkBytes / 4) : this.#evict();
    // Whatever goes wrong below, no half-read chunk may stay current.
    this.#currentNumber = -1;
    if (place === undefined) words.fill(0);
    else readVerified(place, number, new Uint8Array(words.buffer));
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

function readVerified({ fd, offset, checksum, file }: ChunkPlace, number: number, into: Uint8Array): void {
  try {
    readAt(fd, into, offset);
  } catch (error) {
    throw indexDamaged(file, `chunk ${number} at offset ${offset} cannot be read`, error);
  }
  const found = xxh3(into);
  if (found === checksum) return;
  const expected = checksumText(checksum);
  throw indexDamaged(
    file,
    `chunk ${number} at offset ${offset} has the checksum ${checksumText(found)}, ${expected} expected`,
  );
}

/** Reads a table of checksums, whose own checksum (the root) comes from the manifest. @throws VmckptError INDEX_DAMAGED */
export function readTable(
  fd: number,
  { offset, bytes, root, file }: { offset: number; bytes: number; root: bigint; file: string },
): Buffer {
  const table = Buffer.alloc(bytes);
  readAt(fd, table, offset);
  const found = xxh3(table);
  if (found !== root)
    throw indexDamaged(file, `the root is ${checksumText(found)}, ${checksumText(root)} expected`);
  return table;
}

export function indexDamaged(label: string, message: string, cause?: unknown): VmckptError {
  return new VmckptError('INDEX_DAMAGED', `${label}: ${message}`, { hint: DAMAGE_HINT, cause });
}
