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

/**
 * The block that holds guest address 0: the machine's main memory. Undefined unless it is private anonymous memory
 * of the expected length, which is zero until somebody writes to it.
 */
export async function locateMainMemory(
  qmp: QmpClient,
  blocks: readonly RamBlock[],
): Promise<BlockAddress | undefined> {
  const text = await qmp.query(z.string(), 'human-monitor-command', { 'command-line': 'gpa2hva 0x0' });
  const match = /^Host virtual address for 0x0 \((.+)\) is (0x[0-9a-f]+)/.exec(text);
  const block = blocks.find(({ name }) => name === match?.[1]);
  if (match === null || block === undefined) return undefined;
  const hostAddress = Number.parseInt(match[2]!, 16);
  const pid = qmp.peerPid();
  const anonymous = isAnonymous(pid, hostAddress, hostAddress + block.usedBytes);
  return anonymous ? { blockName: block.name, pid, hostAddress } : undefined;
}

/** Whether [start, end) of the process is private, writable and backed by no file, without a gap. */
function isAnonymous(pid: number, start: number, end: number): boolean {
  let covered = start;
  for (const line of readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) rw.p \S+ \S+ 0\s/.exec(line);
    if (match === null) continue;
    const [low, high] = [Number.parseInt(match[1]!, 16), Number.parseInt(match[2]!, 16)];
    if (low <= covered && covered < high) covered = high;
  }
  return covered >= end;
}
