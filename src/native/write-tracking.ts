/** Which pages of another process were written (native/core/write_protection.h, soft_dirty.h). */
import { integer, loadAddon } from './addon.js';
import { regionNumbers, type MemoryRegion } from './fault-path.js';

export interface TrackedProcess {
  readonly pid: number;
  /** Ascending in page and address. */
  readonly regions: readonly MemoryRegion[];
}

/** What was written is told as (firstPage, pageCount)…, ascending, neighbours joined. */
interface NativeBits {
  arm(): void;
  look(firstPage: number, pageCount: number): Uint32Array;
  take(): Uint32Array;
  /** Gives back what it holds in this process. */
  close(): void;
}

interface NativeProtection extends NativeBits {
  register(): void;
  lookForWrites(): Uint32Array;
}

interface WriteTrackingAddon {
  readonly WriteProtection: new (options: {
    readonly userfaultfd: number;
    readonly pid: number;
    readonly regions: BigUint64Array;
  }) => NativeProtection;
  readonly SoftDirty: new (options: { readonly pid: number; readonly regions: BigUint64Array }) => NativeBits;
  writeProtectionProblem(): string;
  softDirtyProblem(): string;
}

const addon = loadAddon<WriteTrackingAddon>;

/**
 * By a userfaultfd of the process, of which a duplicate is kept. `register()` once for a userfaultfd: EBUSY where another
 * one has the memory. May fail with other system errors, ESRCH when the process has ended.
 */
export function newWriteProtection(userfaultfd: number, { pid, regions }: TrackedProcess): NativeProtection {
  return new (addon().WriteProtection)({
    userfaultfd: integer('userfaultfd', userfaultfd),
    pid: integer('pid', pid, { min: 1 }),
    regions: regionNumbers(regions),
  });
}

/** May fail with a system error: EACCES without the right to ptrace the process. */
export function newSoftDirty({ pid, regions }: TrackedProcess): NativeBits {
  return new (addon().SoftDirty)({
    pid: integer('pid', pid, { min: 1 }),
    regions: regionNumbers(regions),
  });
}

/** Why this kernel has no asynchronous write protection, as a clause; undefined when it does. */
export function writeProtectionProblem(): string | undefined {
  return addon().writeProtectionProblem() || undefined;
}

/** Why this kernel has no soft-dirty bits, as a clause; undefined when it does. */
export function softDirtyProblem(): string | undefined {
  return addon().softDirtyProblem() || undefined;
}
