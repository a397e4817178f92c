/** Which memory can be tracked: what the kernel's map of the process says of it. */
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { PAGE_BYTES } from '../pages/layout.js';
import type { MemoryRegion } from '../native/index.js';

/** O_ACCMODE of the flags in /proc/PID/fdinfo. */
const ACCESS_MODE = 0o3;

interface Mapping {
  readonly start: number;
  readonly end: number;
  readonly isShared: boolean;
  /** Undefined for memory without one. */
  readonly file: string | undefined;
}

/**
 * Why writes to these regions cannot all be seen, as a clause; undefined when they can. Shared memory may be written by
 * other processes, and loses pages without a sign when holes are punched into its file, as a private mapping does whose
 * file QEMU can write to, and as pages of hugetlbfs are when they are given back.
 */
export function memoryProblem(pid: number, regions: readonly MemoryRegion[]): string | undefined {
  const mappings = mappingsOf(pid);
  for (const { address, pageCount, pageBytes = PAGE_BYTES } of regions) {
    if (pageBytes !== PAGE_BYTES) return 'its memory is of huge pages, which are given back without a sign';
    const end = address + pageCount * PAGE_BYTES;
    for (const { isShared, file } of mappings.filter((it) => it.start < end && address < it.end)) {
      if (isShared) return `its memory is shared (${file ?? 'anonymous'}): others may write to it`;
      if (file !== undefined && isOpenForWriting(pid, file))
        return `its memory is a file that it can punch holes into (${file})`;
    }
  }
  return undefined;
}

function mappingsOf(pid: number): Mapping[] {
  const lines = readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n');
  return lines.flatMap((line) => {
    const match = /^([0-9a-f]+)-([0-9a-f]+) ...([ps]) \S+ \S+ (\d+)\s*(.*)$/.exec(line);
    if (match === null) return [];
    const [, start, end, sharing, inode, name] = match as unknown as [string, ...string[]];
    return {
      start: Number.parseInt(start!, 16),
      end: Number.parseInt(end!, 16),
      isShared: sharing === 's',
      file: inode === '0' ? undefined : name,
    };
  });
}

function isOpenForWriting(pid: number, file: string): boolean {
  return readdirSync(`/proc/${pid}/fd`).some((fd) => {
    try {
      if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== file) return false;
      const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1];
      return (Number.parseInt(flags!, 8) & ACCESS_MODE) !== 0;
    } catch {
      return false; // closed meanwhile
    }
  });
}
