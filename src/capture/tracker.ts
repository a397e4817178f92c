/**
 * Write tracking: which pages of a QEMU process were written since an instant, told from outside while the VM runs.
 * Three kinds keep one contract (test/contracts/write-tracker.ts); `openTracker()` finds the best that the host has.
 */
import type { MemoryRegion } from '../native/index.js';

/**
 * `write-protection`: the kernel protects the pages and notes the first write to each (userfaultfd, Linux 6.7).
 * `soft-dirty`: the kernel's soft-dirty bits (CONFIG_MEM_SOFT_DIRTY). `none`: every page counts as written.
 */
export type TrackerKind = 'write-protection' | 'soft-dirty' | 'none';

/** (firstPage, pageCount)…: flat page numbers, ascending, neighbours joined. */
export type PageRuns = Uint32Array;

export interface PageRange {
  readonly firstPage: number;
  readonly pageCount: number;
}

export const ALL_PAGES: PageRange = { firstPage: 0, pageCount: 0xffff_ffff };

/**
 * Writes by the process's threads, by the kernel in their name, and by KVM are all noted, and so is memory that was given
 * back (a balloon) and reads as zero. **Not noted** is what a device writes into pages that were pinned before
 * `arm()` or `take()`: O_DIRECT reads in flight. Such a read has ended when the VM has been stopped. Hence memory that is to
 * be composed with what is told later is read after a stop that followed `arm()` or `take()`, or in it, unless there are no
 * such reads (direct-reads.ts).
 * Memory that other processes write to (VFIO, vhost-user) is the caller's to refuse.
 */
export interface WriteTracker {
  readonly kind: TrackerKind;
  /** Nothing that is written while `take()` is at work is lost: it may be called while the VM runs. */
  readonly takesAtOnce: boolean;

  /** Why it is not of a better kind, as a clause for the user; undefined for the best. */
  readonly shortfall: string | undefined;

  /** What a holder can keep, until `close()` (held-tracking.ts); undefined for other kinds than write protection. */
  readonly userfaultfd: number | undefined;

  /** All pages count as unwritten from now on. Once, before everything else. Takes up to 30 ms for 1 GiB. Throws as look(). */
  arm(): void;

  /**
   * The pages of `within` written since `arm()` or the last `take()`, ALL_PAGES by default. Changes nothing: the VM may run, and they are told again.
   * @throws VmckptError CAPTURE_REFUSED where other memory lies by now; QEMU_DIED, FAILED
   */
  look(within?: PageRange): PageRuns;

  /** Of all pages, but what was given back need not be told. A third of the time. */
  lookForWrites(): PageRuns;

  /** As look() of all pages, and throws the same, but they count as unwritten from now on. `takesAtOnce` tells whether the VM may run. */
  take(): PageRuns;

  /** Leaves nothing in the process. Nothing else may be called afterwards, but this again. */
  close(): void;
}

export interface TrackerOptions {
  readonly pid: number;
  /** Main memory in QEMU's process, ascending in both numbers (see locateMemory in src/qemu/guest-memory.ts). */
  readonly regions: readonly MemoryRegion[];
  /** The process has QEMU's own seccomp filter (`-sandbox on`) and no other, where we may not read it. */
  readonly isSandboxed?: boolean;
  readonly signal?: AbortSignal | undefined;
}
