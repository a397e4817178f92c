/**
 * The guest's memory seen and changed from outside, through /proc/PID/mem: how tests damage a page to prove
 * that the guest would notice. Needs the right to ptrace QEMU; its parent and root have it.
 */
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';

const PAGE_BYTES = 4096;
const CHUNK_BYTES = 16 << 20;
const PAGEMAP_ENTRY_BYTES = 8;

export class GuestMemory {
  private constructor(
    private readonly pid: number,
    private readonly file: number,
    private readonly address: number,
    private readonly ramBytes: number,
  ) {}

  /** A QEMU whose RAM is one mapping of exactly `ramBytes`. */
  static open({ pid, ramBytes }: { readonly pid: number; readonly ramBytes: number }): GuestMemory {
    for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
      const [, begin, end] = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line) ?? [];
      if (begin === undefined || end === undefined) continue;
      const address = parseInt(begin, 16);
      if (parseInt(end, 16) - address !== ramBytes) continue;
      return new GuestMemory(pid, openSync(`/proc/${pid}/mem`, 'r+'), address, ramBytes);
    }
    throw new Error(`QEMU ${pid} has no mapping of ${ramBytes} bytes`);
  }

  /** Offset of the first page that `matches`. */
  find(matches: (page: Buffer) => boolean): number {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (let offset = 0; offset < this.ramBytes; offset += CHUNK_BYTES) {
      const byteCount = readSync(this.file, chunk, 0, CHUNK_BYTES, this.address + offset);
      for (let at = 0; at + PAGE_BYTES <= byteCount; at += PAGE_BYTES) {
        if (matches(chunk.subarray(at, at + PAGE_BYTES))) return offset + at;
      }
    }
    throw new Error('no page of the guest matches');
  }

  /** Whether the host has anything for this page: read or write would make it so, or wait for post-copy. */
  isPresent(offset: number): boolean {
    const entry = Buffer.alloc(PAGEMAP_ENTRY_BYTES);
    const pagemap = openSync(`/proc/${this.pid}/pagemap`, 'r');
    try {
      const page = (this.address + offset) / PAGE_BYTES;
      readSync(pagemap, entry, 0, PAGEMAP_ENTRY_BYTES, page * PAGEMAP_ENTRY_BYTES);
    } finally {
      closeSync(pagemap);
    }
    // Bits 63 and 62: present, swapped (proc_pid_pagemap(5)).
    return entry.readUInt8(7) >>> 6 !== 0;
  }

  read(offset: number): Buffer {
    const page = Buffer.alloc(PAGE_BYTES);
    readSync(this.file, page, 0, PAGE_BYTES, this.address + offset);
    return page;
  }

  write(offset: number, page: Buffer): void {
    writeSync(this.file, page, 0, PAGE_BYTES, this.address + offset);
  }

  close(): void {
    closeSync(this.file);
  }
}
