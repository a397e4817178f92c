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

export class PageHashes {
  /** 16 bytes for each page, shared memory; zero where there is none, as for pages without data. */
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #pageCount: number;
  /** Numbers of the chunks that differ from the file; undefined if all do. */
  readonly #changed: Set<number> | undefined;

  private constructor(pageCount: number, { isKnown }: { isKnown: boolean }) {
    this.#pageCount = pageCount;
    this.bytes = new Uint8Array(new SharedArrayBuffer(pageCount * PAGE_HASH_BYTES));
    this.#words = new Uint32Array(this.bytes.buffer);
    this.#changed = isKnown ? new Set() : undefined;
  }

  /** None yet, of any page. */
  static none(pageCount: number): PageHashes {
    return new PageHashes(pageCount, { isKnown: false });
  }

  /** Those of the generation with this id; undefined if the file does not have them. Never throws but for bugs. */
  static read(nameDir: string, { id, pageCount }: { id: string; pageCount: number }): PageHashes | undefined {
    let fd: number;
    try {
      fd = openRegular(path.join(nameDir, PAGE_HASHES_FILE));
    } catch (error) {
      if (error instanceof VmckptError || errnoOf(error) !== undefined) return undefined;
      throw error;
    }
    try {
      const hashes = new PageHashes(pageCount, { isKnown: true });
      return hashes.#load(fd, id) ? hashes : undefined;
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      return undefined;
    } finally {
      fs.closeSync(fd);
    }
  }

  /** @param at of the new hash in `hashes`, in hashes */
  set(page: number, hashes: Uint32Array, at: number): void {
    this.#words.set(hashes.subarray(at * WORDS, (at + 1) * WORDS), page * WORDS);
    this.#changed?.add(Math.floor((page * PAGE_HASH_BYTES) / CHUNK_BYTES));
  }

  /** The page has no data any more. */
  clear(page: number): void {
    const at = page * WORDS;
    const words = this.#words;
    if ((words[at]! | words[at + 1]! | words[at + 2]! | words[at + 3]!) === 0) return;
    words.fill(0, at, at + WORDS);
    this.#changed?.add(Math.floor((page * PAGE_HASH_BYTES) / CHUNK_BYTES));
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

  get #chunkCount(): number {
    return Math.ceil(this.bytes.length / CHUNK_BYTES);
  }

  #load(fd: number, id: string): boolean {
    const header = Buffer.alloc(HEADER_BYTES);
    readAt(fd, header, 0);
    const table = Buffer.alloc(this.#chunkCount * CHECKSUM_BYTES);
    if (readAt(fd, table, HEADER_BYTES + this.bytes.length) !== table.length) return false;
    if (!header.equals(this.#header(id, table))) return false;
    if (readAt(fd, this.bytes, HEADER_BYTES) !== this.bytes.length) return false;
    for (let chunk = 0; chunk < this.#chunkCount; chunk++)
      if (this.#checksumOf(chunk) !== table.readBigUInt64LE(chunk * CHECKSUM_BYTES)) return false;
    return true;
  }

  #writeTo(fd: number, id: string): void {
    const table = Buffer.alloc(this.#chunkCount * CHECKSUM_BYTES);
    const tableOffset = HEADER_BYTES + this.bytes.length;
    const chunks = this.#changed ?? Array(this.#chunkCount).keys();
    if (this.#changed !== undefined) readAt(fd, table, tableOffset);
    // A header that is no header: from here on the file counts for nothing.
    writeAt(fd, Buffer.alloc(HEADER_BYTES), 0);
    fs.fsyncSync(fd);
    if (this.#changed === undefined) fs.ftruncateSync(fd, 0);
    for (const chunk of chunks) {
      // A new file has a hole there.
      if (this.#changed !== undefined || !isZero(this.#chunk(chunk)))
        writeAt(fd, this.#chunk(chunk), HEADER_BYTES + chunk * CHUNK_BYTES);
      table.writeBigUInt64LE(this.#checksumOf(chunk), chunk * CHECKSUM_BYTES);
    }
    writeAt(fd, table, tableOffset);
    fs.ftruncateSync(fd, tableOffset + table.length);
    fs.fsyncSync(fd);
    writeAt(fd, this.#header(id, table), 0);
    fs.fsyncSync(fd);
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

const ZEROS = new Uint8Array(CHUNK_BYTES);

function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0;
}
