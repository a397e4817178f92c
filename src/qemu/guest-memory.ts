/** Where a RAM block lies in QEMU's address space: asked of QEMU, believed only if the kernel's map agrees. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import type { RamBlock } from '../pages/layout.js';
import type { QmpClient } from './qmp.js';

export interface BlockAddress {
  readonly blockName: string;
  readonly pid: number;
  /** Below 2^47. */
  readonly hostAddress: number;
}

export interface MainMemory extends BlockAddress {
  /** It began with this QEMU and ends with it, as anonymous memory does: it is zero where nobody has written. */
  readonly isFresh: boolean;
}

/**
 * The block that holds guest address 0: the machine's main memory. Undefined unless it is mapped without a gap over the
 * expected length.
 */
export async function locateMainMemory(
  qmp: QmpClient,
  blocks: readonly RamBlock[],
): Promise<MainMemory | undefined> {
  const text = await qmp.query(z.string(), 'human-monitor-command', { 'command-line': 'gpa2hva 0x0' });
  const match = /^Host virtual address for 0x0 \((.+)\) is (0x[0-9a-f]+)/.exec(text);
  const block = blocks.find(({ name }) => name === match?.[1]);
  if (match === null || block === undefined) return undefined;
  const hostAddress = Number.parseInt(match[2]!, 16);
  const pid = qmp.peerPid();
  const mappings = mappingsOf(pid, hostAddress, hostAddress + block.usedBytes);
  if (mappings === undefined) return undefined;
  return { blockName: block.name, pid, hostAddress, isFresh: mappings.every(({ isFresh }) => isFresh) };
}

interface Mapping {
  readonly isFresh: boolean;
}

/** What [start, end) of the process consists of; undefined when there is a gap, or something that cannot be written. */
function mappingsOf(pid: number, start: number, end: number): Mapping[] | undefined {
  const found: Mapping[] = [];
  let covered = start;
  for (const line of readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) rw.. \S+ \S+ (\d+)\s*(.*)$/.exec(line);
    if (match === null) continue;
    const [low, high] = [Number.parseInt(match[1]!, 16), Number.parseInt(match[2]!, 16)];
    if (low > covered || covered >= high) continue;
    covered = high;
    // A file without a name (memfd, temporary) was made by this QEMU, and nobody else can open it.
    found.push({ isFresh: match[3] === '0' || match[4]!.endsWith(' (deleted)') });
    if (covered >= end) return found;
  }
  return undefined;
}

/** Whether writes to memory of the process wait for somebody with its userfaultfd: the flag `uw` of proc_pid_smaps(5). */
export function isWriteProtected(pid: number): boolean {
  return /^VmFlags:.* uw\b/m.test(readFileSync(`/proc/${pid}/smaps`, 'latin1'));
}
