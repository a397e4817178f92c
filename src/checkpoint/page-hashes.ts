/**
 * The hashes of the pages of the newest generation of a name, in a file beside it: a page with the same hash is not stored
 * again. The file is changed in place. While that goes on it says so, and one that is not whole, or is about another
 * generation, counts for nothing: everything is stored then. docs/format.md specifies its bytes.
 */
import fs from 'node:fs';
import path from 'node:path';
import { PAGE_HASH_BYTES, xxh3 } from '../native/index.js';
import { openRegular } from '../util/regular-file.js';
import { FILE_MODE, errnoOf, readAt, writeAt } from './files.js';
import { CHECKSUM_BYTES, HEADER_BYTES, PAGE_HASHES_SPEC, encodeHeader } from './format.js';
import { VmckptError } from '../errors.js';

export const PAGE_HASHES_FILE = 'page-hashes';

const { chunkBytes: CHUNK_BYTES } = PAGE_HASHES_SPEC;
const WORDS = PAGE_HASH_BYTES / 4;

export interface HashesOf {
  /** Of the generation. */
  readonly id: string;
  readonly pageCount: number;
  /** Chunks are read when they are needed. One that is damaged then has no hashes. */
  readonly asNeeded: boolean;
}

/** What of a file is still to be read. */
interface Unread {
  readonly fd: number;
  readonly chunks: Set<number>;
}

export class PageHashes {
  /** 16 bytes for each page, shared memory; zero where there is none, as for pages without data. */
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #halves: BigUint64Array;
  readonly #pageCount: number;
  /** Of the file, as it was read; undefined if there is none. */
  #table: Buffer | undefined;
  #unread: Unread | undefined;
  /** Numbers of the chunks that differ from the file. */
  readonly #changed = new Set<number>();

  private constructor(pageCount: number) {
    this.#pageCount = pageCount;
    this.bytes = new Uint8Array(new SharedArrayBuffer(pageCount * PAGE_HASH_BYTES));
    this.#words = new Uint32Array(this.bytes.buffer);
    this.#halves = new BigUint64Array(this.bytes.buffer);
  }

  /** None yet, of any page. */
  static none(pageCount: number): PageHashes {
    return new PageHashes(pageCount);
  }

  /** Those of a generation; undefined if the file does not have them. Never throws but for bugs. */
  static read(nameDir: string, { id, pageCount, asNeeded }: HashesOf): PageHashes | undefined {
    const hashes = new PageHashes(pageCount);
    try {
      const fd = openRegular(path.join(nameDir, PAGE_HASHES_FILE));
      hashes.#unread = { fd, chunks: new Set(Array(hashes.#chunkCount).keys()) };
      if (hashes.#readTable(fd, id) && (asNeeded || hashes.#readAll())) return hashes;
    } catch (error) {
      if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
    }
    hashes.close();
    return undefined;
  }

  /** Has the page's hash in `bytes`. */
  need(page: number): void {
    if (this.#unread !== undefined) this.#read(chunkOf(page));
  }

  /** Puts the page's hash at a position, in hashes. */
  copyTo(hashes: BigUint64Array, at: number, page: number): void {
    this.need(page);
    hashes[2 * at] = this.#halves[2 * page]!;
    hashes[2 * at + 1] = this.#halves[2 * page + 1]!;
  }

  /** @param at of the new hash in `hashes`, in hashes */
  set(page: number, hashes: Uint32Array, at: number): void {
    this.need(page);
    this.#words.set(hashes.subarray(at * WORDS, (at + 1) * WORDS), page * WORDS);
    this.#changed.add(chunkOf(page));
  }

  /** The page has no data any more. */
  clear(page: number): void {
    this.need(page);
    const at = page * WORDS;
    const words = this.#words;
    if ((words[at]! | words[at + 1]! | words[at + 2]! | words[at + 3]!) === 0) return;
    words.fill(0, at, at + WORDS);
    this.#changed.add(chunkOf(page));
  }

  /** Makes the file that of the generation with this id. Where that is not possible there is none: it is not needed. */
  write(nameDir: string, id: string): void {
    const file = path.join(nameDir, PAGE_HASHES_FILE);
    try {
      const fd = fs.openSync(
        file,
        fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_NOFOLLOW,
        FILE_MODE,
      );
      try {
        this.#writeTo(fd, id);
      } finally {
        fs.closeSync(fd);
      }
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      fs.rmSync(file, { force: true, recursive: true });
    }
  }

  /** Nothing more is read. */
  close(): void {
    if (this.#unread !== undefined) fs.closeSync(this.#unread.fd);
    this.#unread = undefined;
  }

  get #chunkCount(): number {
    return Math.ceil(this.bytes.length / CHUNK_BYTES);
  }

  #readTable(fd: number, id: string): boolean {
    const header = Buffer.alloc(HEADER_BYTES);
    readAt(fd, header, 0);
    const table = Buffer.alloc(this.#chunkCount * CHECKSUM_BYTES);
    if (readAt(fd, table, HEADER_BYTES + this.bytes.length) !== table.length) return false;
    if (!header.equals(this.#header(id, table))) return false;
    this.#table = table;
    return true;
  }

  #readAll(): boolean {
    for (let chunk = 0; chunk < this.#chunkCount; chunk++) if (!this.#read(chunk)) return false;
    this.close();
    return true;
  }

  /** @returns false if it is damaged: it has no hashes then */
  #read(chunk: number): boolean {
    const { fd, chunks } = this.#unread!;
    if (!chunks.delete(chunk)) return true;
    const bytes = this.#chunk(chunk);
    const isRead = readAt(fd, bytes, HEADER_BYTES + chunk * CHUNK_BYTES) === bytes.length;
    if (isRead && this.#checksumOf(chunk) === this.#table!.readBigUInt64LE(chunk * CHECKSUM_BYTES))
      return true;
    bytes.fill(0);
    this.#changed.add(chunk);
    return false;
  }

  /**
   * Its header is none meanwhile. Nothing is fsynced: what a crash of the host has left in another order than it was
   * written does not have its checksum.
   */
  #writeTo(fd: number, id: string): void {
    const isNew = this.#table === undefined;
    const table = this.#table ?? Buffer.alloc(this.#chunkCount * CHECKSUM_BYTES);
    writeAt(fd, Buffer.alloc(HEADER_BYTES), 0);
    if (isNew) fs.ftruncateSync(fd, 0);
    for (const chunk of isNew ? Array(this.#chunkCount).keys() : this.#changed) {
      // A new file has a hole there.
      if (!isNew || !isZero(this.#chunk(chunk)))
        writeAt(fd, this.#chunk(chunk), HEADER_BYTES + chunk * CHUNK_BYTES);
      table.writeBigUInt64LE(this.#checksumOf(chunk), chunk * CHECKSUM_BYTES);
    }
    const tableOffset = HEADER_BYTES + this.bytes.length;
    writeAt(fd, table, tableOffset);
    fs.ftruncateSync(fd, tableOffset + table.length);
    writeAt(fd, this.#header(id, table), 0);
  }

  #header(id: string, table: Buffer): Buffer {
    return encodeHeader(PAGE_HASHES_SPEC, { entryCount: this.#pageCount, id, root: xxh3(table) });
  }

  #chunk(chunk: number): Uint8Array {
    return this.bytes.subarray(chunk * CHUNK_BYTES, Math.min((chunk + 1) * CHUNK_BYTES, this.bytes.length));
  }

  #checksumOf(chunk: number): bigint {
    return xxh3(this.#chunk(chunk));
  }
}

function chunkOf(page: number): number {
  return Math.floor((page * PAGE_HASH_BYTES) / CHUNK_BYTES);
}

const ZEROS = new Uint8Array(CHUNK_BYTES);

function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0;
}
