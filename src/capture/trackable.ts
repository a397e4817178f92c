/** Which memory can be tracked: what the kernel's map of the process says of it. */
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import type { MemoryRegion } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { readMaps } from '../qemu/guest-memory.js';
import { readingQemu } from './refused.js';

/** O_ACCMODE of the flags in /proc/PID/fdinfo. */
const ACCESS_MODE = 0o3;

/**
 * Why writes to these regions cannot all be seen, as a clause; undefined when they can. Shared memory may be written by
 * other processes, and loses pages without a sign when holes are punched into its file, as a private mapping does whose
 * file QEMU can write to, and as pages of hugetlbfs are when they are given back. @throws as readingQemu()
 */
export function memoryProblem(pid: number, regions: readonly MemoryRegion[]): string | undefined {
  const mappings = readingQemu(() => readMaps(pid));
  for (const { address, pageCount, pageBytes = PAGE_BYTES } of regions) {
    if (pageBytes !== PAGE_BYTES) return 'its memory is of huge pages, which are given back without a sign';
    const end = address + pageCount * PAGE_BYTES;
    for (const { isPrivate, inode, name } of mappings.filter((it) => it.start < end && address < it.end)) {
      const isFile = inode !== 0;
      if (!isPrivate) return `its memory is shared (${isFile ? name : 'anonymous'}): others may write to it`;
      if (isFile && isOpenForWriting(pid, name))
        return `its memory is a file that it can punch holes into (${name})`;
    }
  }
  return undefined;
}

function isOpenForWriting(pid: number, file: string): boolean {
  return readingQemu(() => readdirSync(`/proc/${pid}/fd`)).some((fd) => {
    try {
      if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== file) return false;
      const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1];
      return (Number.parseInt(flags!, 8) & ACCESS_MODE) !== 0;
    } catch {
      return false; // closed meanwhile
    }
  });
}
