/**
 * `pack-ID.present`: which blocks of a pack are here. This process is its only writer; others map it. What is set is
 * visible to them at once, and durable after the next makeDurable(). docs/remote.md specifies every byte.
 */
import fs from 'node:fs';
import { FILE_MODE, readAt, writeAt } from '../../checkpoint/files.js';
import { PRESENCE, bitmapBytes } from '../cache-layout.js';

const { at: AT, blockBytes: BLOCK_BYTES, headerBytes: HEADER_BYTES } = PRESENCE;

export interface Span {
  readonly offset: number;
  readonly length: number;
}

interface PackFacts {
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly fileBytes: number;
}

export class PresenceFile {
  readonly blockCount: number;
  readonly #fd: number;
  readonly #fileBytes: number;
  readonly #bits: Uint8Array;
  #presentBlocks = 0;
  #hasChanged = false;

  private constructor(fd: number, fileBytes: number, bits: Uint8Array) {
    this.#fd = fd;
    this.#fileBytes = fileBytes;
    this.#bits = bits;
    this.blockCount = Math.ceil(fileBytes / BLOCK_BYTES);
    for (let block = 0; block < this.blockCount; block++) this.#presentBlocks += Number(this.#has(block));
  }

  /** A new file, without any block. */
  static create(file: string, pack: PackFacts): PresenceFile {
    const fd = fs.openSync(file, 'wx+', FILE_MODE);
    writeAt(fd, headerOf(pack), 0);
    fs.ftruncateSync(fd, HEADER_BYTES + 2 * bitmapBytes(pack.fileBytes));
    return new PresenceFile(fd, pack.fileBytes, new Uint8Array(bitmapBytes(pack.fileBytes)));
  }

  /** One that a fetcher has left, maybe before a power loss. @returns undefined if it is not that of the pack */
  static adopt(file: string, pack: PackFacts): PresenceFile | undefined {
    const fd = fs.openSync(file, 'r+');
    const bytes = bitmapBytes(pack.fileBytes);
    const found = Buffer.alloc(HEADER_BYTES + 2 * bytes + 1);
    const expected = headerOf(pack);
    const isSame =
      readAt(fd, found, 0) === found.length - 1 &&
      found.subarray(0, AT.bootId).equals(expected.subarray(0, AT.bootId));
    if (!isSame) {
      fs.closeSync(fd);
      return undefined;
    }
    const isOfThisBoot = found.subarray(AT.bootId, AT.refetchCount).equals(bootId());
    const bits = found.subarray(HEADER_BYTES + (isOfThisBoot ? 0 : bytes)).subarray(0, bytes);
    if (!isOfThisBoot) {
      writeAt(fd, bits, HEADER_BYTES);
      fs.fdatasyncSync(fd);
      writeAt(fd, bootId(), AT.bootId);
      fs.fdatasyncSync(fd);
    }
    return new PresenceFile(fd, pack.fileBytes, bits);
  }

  get isWhole(): boolean {
    return this.#presentBlocks === this.blockCount;
  }

  get presentBytes(): number {
    return Math.min(this.#presentBlocks * BLOCK_BYTES, this.#fileBytes);
  }

  /** Whether all blocks that the span touches are here. */
  hasAll({ offset, length }: Span): boolean {
    const end = Math.ceil((offset + length) / BLOCK_BYTES);
    for (let block = Math.floor(offset / BLOCK_BYTES); block < end; block++)
      if (!this.#has(block)) return false;
    return true;
  }

  hasBlock(block: number): boolean {
    return this.#has(block);
  }

  /** Sets, or clears, the blocks that the span touches. */
  put({ offset, length }: Span, isPresent: boolean): void {
    const first = Math.floor(offset / BLOCK_BYTES);
    const end = Math.ceil((offset + length) / BLOCK_BYTES);
    for (let block = first; block < end; block++) {
      if (this.#has(block) === isPresent) continue;
      this.#bits[block >>> 3]! ^= 1 << (block & 7);
      this.#presentBlocks += isPresent ? 1 : -1;
      this.#hasChanged = true;
    }
    const bytes = this.#bits.subarray(first >>> 3, ((end - 1) >>> 3) + 1);
    writeAt(this.#fd, bytes, HEADER_BYTES + (first >>> 3));
    // What is cleared is not durable either.
    if (!isPresent) writeAt(this.#fd, bytes, HEADER_BYTES + this.#bits.length + (first >>> 3));
  }

  /** Tells readers that the range which begins at `offset` was fetched once more. */
  noteRefetched(offset: number): void {
    const word = Buffer.alloc(8);
    readAt(this.#fd, word.subarray(0, 4), AT.refetchCount);
    const count = word.readUInt32LE();
    word.writeBigUInt64LE(BigInt(offset));
    writeAt(this.#fd, word, AT.refetches + (count % PRESENCE.refetchSlots) * word.length);
    word.writeUInt32LE((count + 1) >>> 0);
    writeAt(this.#fd, word.subarray(0, 4), AT.refetchCount);
  }

  /** What is present now survives a power loss afterwards. @param syncPack makes the pack durable */
  async makeDurable(syncPack: () => Promise<void>): Promise<void> {
    if (!this.#hasChanged) return;
    this.#hasChanged = false;
    const bits = this.#bits.slice();
    await syncPack();
    // A block that was cleared in the meantime stays so.
    for (const [index, byte] of this.#bits.entries()) bits[index]! &= byte;
    writeAt(this.#fd, bits, HEADER_BYTES + bits.length);
  }

  close(): void {
    fs.closeSync(this.#fd);
  }

  #has(block: number): boolean {
    return (this.#bits[block >>> 3]! & (1 << (block & 7))) !== 0;
  }
}

function headerOf({ id, fileBytes }: PackFacts): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(PRESENCE.magic, AT.magic, 'latin1');
  header.writeUInt32LE(PRESENCE.version, AT.version);
  header.writeUInt32LE(BLOCK_BYTES, AT.blockBytes);
  header.writeBigUInt64LE(BigInt(fileBytes), AT.fileBytes);
  header.write(id, AT.packId, 'hex');
  bootId().copy(header, AT.bootId);
  return header;
}

function bootId(): Buffer {
  const text = fs.readFileSync('/proc/sys/kernel/random/boot_id', 'latin1');
  return Buffer.from(text.replaceAll('-', '').trim(), 'hex');
}
