/** Where a VM's memory is in QEMU's address space: QEMU's answer, confirmed by the kernel's map. */
import { readFileSync } from 'node:fs';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import type { RamBlock } from '../pages/layout.js';
import type { QmpClient } from './qmp.js';

export interface LocatedBlock {
  readonly blockName: string;
  /** Below 2^47. */
  readonly hostAddress: number;
  /** It was created by this QEMU and ends with it, like anonymous memory: it is zero where nothing was written. */
  readonly isFresh: boolean;
}

/**
 * The blocks that are the machine's memory: the one at guest address 0, and those of its other memory back-ends. Blocks
 * that are not mapped without gaps over the expected length, or whose mappings cannot be read, are left out.
 * @param backendIds all memory back-ends, as far as known
 */
export async function locateMemory(
  qmp: QmpClient,
  blocks: readonly RamBlock[],
  backendIds: readonly string[],
): Promise<LocatedBlock[]> {
  const ids = new Set(backendIds.flatMap((id) => [id, `/objects/${id}`]));
  const isAlone = blocks.filter(({ name }) => ids.has(name)).length < 2;
  const pieces = isAlone ? [{ guestAddress: 0, offset: 0 }] : await findPieces(qmp, ids);
  const located: LocatedBlock[] = [];
  for (const piece of pieces) {
    const found = await askHostAddress(qmp, piece.guestAddress);
    const block = blocks.find(({ name }) => name === found?.blockName);
    if (found === undefined || block === undefined) continue;
    const hostAddress = found.hostAddress - piece.offset;
    const mappings = mappingsIfReadable(qmp.peerPid(), hostAddress, hostAddress + block.usedBytes);
    if (mappings === undefined) continue;
    located.push({
      blockName: block.name,
      hostAddress,
      isFresh: mappings.every(({ isFresh }) => isFresh),
    });
  }
  return located;
}

/** Where the guest sees a part of a block. */
interface Piece {
  readonly guestAddress: number;
  /** Offset in the block. */
  readonly offset: number;
}

/** One piece of each named block. */
async function findPieces(qmp: QmpClient, names: ReadonlySet<string>): Promise<Piece[]> {
  const text = await qmp.query(v.string(), 'human-monitor-command', { 'command-line': 'info mtree -f' });
  const found = new Map<string, Piece>();
  // First and last guest address, priority and kind, name, offset unless it is 0.
  const rows = text.matchAll(/^ *([0-9a-f]+)-[0-9a-f]+ \(prio -?\d+, ram\): (\S+)(?: @([0-9a-f]+))?/gm);
  for (const [, start, name, offset = '0'] of rows)
    if (names.has(name!) && !found.has(name!))
      found.set(name!, { guestAddress: Number.parseInt(start!, 16), offset: Number.parseInt(offset, 16) });
  return [...found.values()];
}

/** Where the byte at a guest address lies; undefined where there is no memory. */
export async function askHostAddress(
  qmp: QmpClient,
  guestAddress: number,
): Promise<Omit<LocatedBlock, 'isFresh'> | undefined> {
  const text = await qmp.query(v.string(), 'human-monitor-command', {
    'command-line': `gpa2hva 0x${guestAddress.toString(16)}`,
  });
  const match = /^Host virtual address for 0x[0-9a-f]+ \((.+)\) is (0x[0-9a-f]+)/.exec(text);
  return match === null ? undefined : { blockName: match[1]!, hostAddress: Number.parseInt(match[2]!, 16) };
}

interface Mapping {
  readonly isFresh: boolean;
  /** Private to the process, and in no file. */
  readonly isAnonymous: boolean;
}

/**
 * The mappings of [start, end) in the process; undefined when there is a gap, or a part that is not writable.
 * @throws as readMaps()
 */
function mappingsOf(pid: number, start: number, end: number): Mapping[] | undefined {
  return mappingsIn(readMaps(pid), start, end);
}

/** The same, of maps that were read before. */
export function mappingsIn(maps: readonly MapsEntry[], start: number, end: number): Mapping[] | undefined {
  const found: Mapping[] = [];
  let covered = start;
  for (const map of maps) {
    if (!map.isWritable || map.start > covered || covered >= map.end) continue;
    covered = map.end;
    // A file without a name (memfd, temporary) was made by this QEMU, and no other process can open it.
    const isFresh = map.inode === 0 || map.name.endsWith(' (deleted)');
    found.push({ isFresh, isAnonymous: map.inode === 0 && map.isPrivate });
    if (covered >= end) return found;
  }
  return undefined;
}

/** Undefined as well for a process that has ended, or that this user may not read. */
function mappingsIfReadable(pid: number, start: number, end: number): Mapping[] | undefined {
  try {
    return mappingsOf(pid, start, end);
  } catch {
    return undefined;
  }
}

/** A line of /proc/PID/maps. */
export interface MapsEntry {
  readonly start: number;
  readonly end: number;
  readonly isWritable: boolean;
  readonly isPrivate: boolean;
  /** 0 for what is in no file. */
  readonly inode: number;
  /** A path, or something like `[heap]`; often empty. */
  readonly name: string;
}

/** @throws an Error of the operating system */
export function readMaps(pid: number): MapsEntry[] {
  const lines = readFileSync(`/proc/${pid}/maps`, 'latin1').matchAll(
    /^([0-9a-f]+)-([0-9a-f]+) ([r-][w-]).([ps]) \S+ \S+ (\d+) *(.*)$/gm,
  );
  return Array.from(lines, ([, start, end, access, sharing, inode, name]) => ({
    start: Number.parseInt(start!, 16),
    end: Number.parseInt(end!, 16),
    isWritable: access === 'rw',
    isPrivate: sharing === 'p',
    inode: Number(inode),
    name: name!,
  }));
}

/**
 * Whether memory of the process is write-protected through a userfaultfd: the flag `uw` of proc_pid_smaps(5). False for
 * one that has ended. @throws VmckptError NOT_PERMITTED
 */
export function isWriteProtected(pid: number): boolean {
  try {
    return /^VmFlags:.* uw\b/m.test(readFileSync(`/proc/${pid}/smaps`, 'latin1'));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return false;
    throw new VmckptError('NOT_PERMITTED', `this user may not look into process ${pid}`, { cause });
  }
}
