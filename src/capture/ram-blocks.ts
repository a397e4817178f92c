/**
 * Where all RAM blocks of a QEMU lie in its address space. `info ramblock` prints names and sizes, and addresses only in
 * newer versions; none tells which blocks migrate. QEMU's own structures (RAMBlock) tell both. They lie in its heap:
 * the host address, a pointer that is not needed here, offset, used and maximum length as `info ramblock` prints them,
 * another pointer, the flags, and the name. Main memory, whose address `gpa2hva` gives, tells the distances between
 * these for the QEMU at hand. What does not fit in every point is refused. (QEMU 7.2, 10.0 and 11.1: ramblock.h.)
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { checksumText } from '../checkpoint/format.js';
import { xxh3, type MemoryRegion } from '../native/index.js';
import { RamLayout } from '../pages/layout.js';
import { readRamBlocks, type RamBlockSize } from '../qemu/compatibility.js';
import { askHostAddress, mappingsIn, readMaps, type MapsEntry } from '../qemu/guest-memory.js';
import type { QmpClient } from '../qemu/qmp.js';
import { captureRefused, qemuDied, readingQemu } from './refused.js';

/** The three lengths stand side by side, 64 bits each. */
const LENGTHS_BYTES = 24;
const WORD_BYTES = 8;
/** How far the address may lie before the lengths, and the name behind them. */
const REACH_BYTES = 64;
const MAX_NAME_BYTES = 255;
const FLAGS_BYTES = 4;
/** RAM_MIGRATABLE of QEMU's memory.h. */
const MIGRATABLE = 1 << 4;
/** A heap that is larger is none of a QEMU that vmckpt knows. */
const MAX_HEAP_BYTES = 1 << 30;

export interface LocatedRamBlock {
  readonly name: string;
  readonly usedBytes: number;
  readonly hostAddress: number;
}

export interface RamBlockMap {
  /** Those that a migration would send, in its order. */
  readonly blocks: readonly LocatedRamBlock[];
  /** Stands for what the monitor prints of all blocks. */
  readonly told: string;
}

/** Distances from the first of the lengths, in bytes. */
interface Structure {
  readonly hostAt: number;
  readonly nameAt: number;
}

/**
 * @throws VmckptError CAPTURE_REFUSED when one of them is not found beyond doubt, or is not private anonymous memory;
 *   QEMU_DIED, FAILED (see readingQemu())
 */
export async function locateRamBlocks(qmp: QmpClient, pid: number): Promise<RamBlockMap> {
  const blocks = await readRamBlocks(qmp);
  const main = await askHostAddress(qmp, 0);
  const mainBlock = blocks.find(({ name }) => name === main?.blockName);
  if (main === undefined || mainBlock === undefined)
    throw captureRefused('QEMU does not tell where the memory at guest address 0 lies');
  const heap = readHeap(pid);
  const structure = structureOf(heap, mainBlock, main.hostAddress);
  const found = blocks.map((block) => ({ block, at: findStructure(heap, block, structure) }));
  const migratable = found.filter(({ at }) => isMigratable(heap, at, structure));
  const maps = readingQemu(() => readMaps(pid));
  return {
    blocks: migratable.map(({ block, at }) => verified(maps, block, hostAddressAt(heap, at, structure))),
    told: checksumOf(blocks),
  };
}

/**
 * Whether these are the VM's blocks as before. That their memory is the same memory, and not other memory in its place, is
 * told by a write tracker that has it protected all the time.
 */
export async function areUnmoved(
  qmp: QmpClient,
  pid: number,
  { blocks, told }: RamBlockMap,
): Promise<boolean> {
  if (checksumOf(await readRamBlocks(qmp)) !== told) return false;
  const maps = readingQemu(() => readMaps(pid));
  return blocks.every(
    ({ hostAddress, usedBytes }) => mappingsIn(maps, hostAddress, hostAddress + usedBytes) !== undefined,
  );
}

/** As a write tracker takes them. */
export function regionsOf(blocks: readonly LocatedRamBlock[]): MemoryRegion[] {
  return new RamLayout(blocks).blocks.map(({ index, firstPage, pageCount }) => ({
    address: blocks[index]!.hostAddress,
    firstPage,
    pageCount,
  }));
}

function checksumOf(blocks: readonly RamBlockSize[]): string {
  return checksumText(xxh3(Buffer.from(JSON.stringify(blocks))));
}

/**
 * QEMU allocates meanwhile, and its heap grows and shrinks at the end. What has gone from there held no RAM block.
 * @throws VmckptError as locateRamBlocks(), QEMU_DIED
 */
export function readHeap(pid: number): Buffer {
  return readingQemu(() => {
    const maps = readMaps(pid);
    if (maps.length === 0) throw qemuDied();
    const heap = maps.find(({ name, isWritable }) => name === '[heap]' && isWritable);
    if (heap === undefined || heap.end - heap.start > MAX_HEAP_BYTES)
      throw captureRefused('QEMU has no heap that could be searched for its RAM blocks');
    const fd = openSync(`/proc/${pid}/mem`, 'r');
    try {
      return readMemory(fd, heap.start, heap.end);
    } finally {
      closeSync(fd);
    }
  });
}

/** Up to the first hole. */
function readMemory(fd: number, start: number, end: number): Buffer {
  const bytes = Buffer.alloc(end - start);
  let done = 0;
  while (done < bytes.length) {
    const read = readUnlessHole(fd, bytes.subarray(done), start + done);
    if (read === undefined) break;
    done += read;
  }
  return bytes.subarray(0, done);
}

/** How much was read; undefined where the process has no memory. */
function readUnlessHole(memory: number, into: Buffer, address: number): number | undefined {
  try {
    const read = readSync(memory, into, { position: address });
    if (read === 0) throw qemuDied();
    return read;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EIO') return undefined;
    throw error;
  }
}

/** The distances, from the one block of which the host address is known. */
function structureOf(heap: Buffer, main: RamBlockSize, hostAddress: number): Structure {
  const host = word(hostAddress);
  const structures = placesOfName(heap, main).flatMap((place): Structure[] => {
    const start = Math.max(0, place - REACH_BYTES);
    const at = start + heap.subarray(start, place).lastIndexOf(lengthsOf(main));
    const nameAt = place - at;
    if (at < start || at % WORD_BYTES !== 0 || nameAt < LENGTHS_BYTES) return [];
    const before = heap.subarray(Math.max(0, at - REACH_BYTES), at);
    const hostAt = before.lastIndexOf(host) - before.length;
    return hostAt < -before.length ? [] : [{ hostAt, nameAt }];
  });
  const [structure, ...others] = structures;
  if (structure === undefined || others.length > 0)
    throw captureRefused(
      `one description of "${main.name}" expected in QEMU’s heap, ${structures.length} found`,
    );
  return structure;
}

/** Where the lengths of the block stand in the heap. */
function findStructure(heap: Buffer, block: RamBlockSize, { nameAt }: Structure): number {
  const lengths = lengthsOf(block);
  const found = placesOfName(heap, block)
    .map((place) => place - nameAt)
    .filter(
      (at) => at >= 0 && at % WORD_BYTES === 0 && heap.subarray(at, at + lengths.length).equals(lengths),
    );
  const [at, ...others] = found;
  if (at === undefined || others.length > 0)
    throw captureRefused(`one description of "${block.name}" expected in QEMU’s heap, ${found.length} found`);
  return at;
}

function isMigratable(heap: Buffer, at: number, { nameAt }: Structure): boolean {
  return (heap.readUInt32LE(at + nameAt - FLAGS_BYTES) & MIGRATABLE) !== 0;
}

function hostAddressAt(heap: Buffer, at: number, { hostAt }: Structure): number {
  return Number(heap.readBigUInt64LE(at + hostAt));
}

function verified(maps: readonly MapsEntry[], block: RamBlockSize, hostAddress: number): LocatedRamBlock {
  const { name, usedBytes } = block;
  if (block.hostAddress !== undefined && block.hostAddress !== hostAddress)
    throw captureRefused(
      `"${name}" lies at 0x${hostAddress.toString(16)} by QEMU’s heap, at 0x${block.hostAddress.toString(16)} by its monitor`,
    );
  const mappings = mappingsIn(maps, hostAddress, hostAddress + usedBytes);
  if (mappings === undefined)
    throw captureRefused(`"${name}" is not mapped over its whole length, or cannot be written to`);
  if (!mappings.every(({ isAnonymous }) => isAnonymous))
    throw captureRefused(`"${name}" lies in a file, or is shared with other processes`);
  return { name, usedBytes, hostAddress };
}

/** Of the name with the zero that ends it. Names are rare in a heap, numbers are not. */
function placesOfName(heap: Buffer, { name }: RamBlockSize): number[] {
  const bytes = Buffer.from(`${name.slice(0, MAX_NAME_BYTES)}\0`, 'latin1');
  const found: number[] = [];
  for (let at = heap.indexOf(bytes); at >= 0; at = heap.indexOf(bytes, at + 1)) found.push(at);
  return found;
}

function lengthsOf({ offset, usedBytes, maxBytes }: RamBlockSize): Buffer {
  return Buffer.concat([offset, usedBytes, maxBytes].map(word));
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(WORD_BYTES);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}
