/**
 * The typed interface to the addon (native/), and its only importer. Arguments are checked here, so C++ does not have
 * to. A failed system call throws an Error shaped like Node's own: `code` ('EAGAIN'), `errno`, `syscall`. This file
 * can be imported without the addon: calls with a substitute use that, all others throw NATIVE_MISSING. Everything
 * also works in worker threads. Returned descriptors are close-on-exec and belong to the caller.
 */
import { closeSync } from 'node:fs';
import { PAGE_BYTES } from '../pages/layout.js';
import { openRegular } from '../util/regular-file.js';
import { hasAddon, helperPath, integer, loadAddon } from './addon.js';
import type { Addon, PeerCredentials, ReceivedMessage, RescueResult, Substitutable } from './calls.js';

export { addonProblem, addonRemedy, hasAddon, requireAddon } from './addon.js';
export type { RescueResult } from './calls.js';
export * from './fault-bench.js';
export * from './fault-path.js';
export * from './memory-fill.js';
export * from './page-reading.js';
export * from './shared-file.js';
export { perlMayTake, perlTaking, taken } from './perl.js';
export * from './write-tracking.js';
export { zstd, type Zstd } from './zstd.js';

export interface ReceiveLimits {
  /** At most MAX_RECEIVE_BYTES. */
  readonly maxBytes: number;
  /** At most MAX_FDS_PER_MESSAGE; the kernel closes any more. */
  readonly maxFds: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** The process that keeps a save's migration stream open: see native/core/receiver.h. */
export const RECEIVER_PATH = helperPath('vmckpt-receiver');

/** The parent process of a restored VM and of its serving process: see native/core/keeper.h. */
export const KEEPER_PATH = helperPath('vmckpt-keeper');

/**
 * Executes the program that its arguments name, which cannot punch holes into files: see
 * native/core/no_holes_main.cc.
 */
export const NO_HOLES_PATH = helperPath('vmckpt-no-holes');

/** Makes a userfaultfd in the name of another process: see native/core/tracker_main.cc. */
export const TRACKER_PATH = helperPath('vmckpt-tracker');

/** Small enough that the kernel always queues a message whole. */
export const MAX_SEND_BYTES = 16 << 10;
export const MAX_RECEIVE_BYTES = 1 << 20;
/** The kernel's own limit (SCM_MAX_FD). */
export const MAX_FDS_PER_MESSAGE = 253;

const addon = loadAddon<Addon>;
const common: Substitutable = hasAddon() ? addon() : (await import('./substitutes.js')).substitutes;

/**
 * The numbers that both languages have, as the addon was built with them; test/unit/native/constants.test.ts
 * compares.
 */
export function addonConstants(): Readonly<Record<string, number>> {
  return addon().constants;
}

/** The process at the other end of a unix socket when the connection was made. */
export function peerCredentials(fd: number): PeerCredentials {
  return common.peerCredentials(integer('fd', fd));
}

/** Connects to a listening unix stream socket; ENAMETOOLONG when the path exceeds 107 bytes. */
export function connectUnix(socketPath: string): number {
  if (socketPath.includes('\0')) throw new TypeError('socketPath contains a NUL character');
  return addon().connectUnix(socketPath);
}

/** Sends 1 to MAX_SEND_BYTES bytes, with duplicates of `fds`, as one message. */
export function sendFds(socketFd: number, payload: Uint8Array, fds: readonly number[]): void {
  integer('payload.byteLength', payload.byteLength, { min: 1, max: MAX_SEND_BYTES });
  integer('fds.length', fds.length, { max: MAX_FDS_PER_MESSAGE });
  for (const fd of fds) integer('fds', fd);
  common.sendFds(integer('socketFd', socketFd), payload, fds);
}

/**
 * Waits for the next bytes on a unix socket and the descriptors that come with them. Rejects with ETIMEDOUT, or with
 * the signal's reason. The caller may close `socketFd` in the meantime.
 */
export async function receiveFds(socketFd: number, limits: ReceiveLimits): Promise<ReceivedMessage> {
  const { signal } = limits;
  signal?.throwIfAborted();
  const { message, cancel } = addon().receiveFds({
    socketFd: integer('socketFd', socketFd),
    maxBytes: integer('maxBytes', limits.maxBytes, { min: 1, max: MAX_RECEIVE_BYTES }),
    maxFds: integer('maxFds', limits.maxFds, { max: MAX_FDS_PER_MESSAGE }),
    timeoutMs: integer('timeoutMs', limits.timeoutMs),
  });
  signal?.addEventListener('abort', cancel, { once: true });
  // A process that exits waits for its worker threads.
  process.once('exit', cancel);
  try {
    return await message;
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    process.off('exit', cancel);
    signal?.removeEventListener('abort', cancel);
  }
}

/** Two unix stream sockets that are each other's ends. */
export function makeSocketPair(): [number, number] {
  return addon().makeSocketPair();
}

export interface Pipe {
  /** Non-blocking. */
  readonly readEnd: number;
  /** Blocking. */
  readonly writeEnd: number;
}

/** A pipe of that capacity, or of the default capacity where the system's limits forbid it. */
export function makePipe(capacityBytes: number): Pipe {
  const [readEnd, writeEnd] = common.makePipe(integer('capacityBytes', capacityBytes, { min: 1 }));
  return { readEnd, writeEnd };
}

/**
 * Reads what a non-blocking descriptor has right now. Returns the length; 0 at the end; undefined when there is nothing
 * yet.
 */
export function readAvailable(fd: number, into: Uint8Array): number | undefined {
  const length = common.readAvailable(integer('fd', fd), into);
  return length < 0 ? undefined : length;
}

/**
 * Takes an exclusive lock on the whole file, which ends with the last duplicate of this open file description. False
 * when another description holds a lock. `fd` must be open for writing.
 */
export function tryLockFile(fd: number): boolean {
  return common.tryLockFile(integer('fd', fd));
}

/** Whether another open file description holds a lock on any byte of the file, or on the one at `byte`. */
export function isFileLocked(fd: number, byte?: number): boolean {
  if (byte === undefined) return common.isFileLocked(integer('fd', fd));
  return common.isFileLocked(integer('fd', fd), integer('byte', byte));
}

/** Starts writing a range of a file to its disk, without waiting for it and without its metadata. */
export function syncFileRange(fd: number, offsetBytes: number, lengthBytes: number): void {
  const max = Number.MAX_SAFE_INTEGER;
  common.syncFileRange(
    integer('fd', fd),
    integer('offsetBytes', offsetBytes, { max }),
    integer('lengthBytes', lengthBytes, { max }),
  );
}

/** Makes the system read a part of a file into its page cache. Errors are left to the later reader. */
export async function readAhead(
  file: string,
  { offsetBytes = 0, lengthBytes }: { readonly offsetBytes?: number; readonly lengthBytes: number },
): Promise<void> {
  try {
    const fd = openRegular(file);
    await common.readAhead(fd, offsetBytes, lengthBytes).finally(() => closeSync(fd));
  } catch {
    // The later reader reports the error.
  }
}

/** Ends this process without its threads, which may be waiting for a disk. */
export function exitNow(code: number): never {
  return common.exitNow(code);
}

/**
 * Offset of the next data in the file that is not in a hole, at or after `offsetBytes`; undefined when none follows.
 */
export function nextData(fd: number, offsetBytes: number): number | undefined {
  const max = Number.MAX_SAFE_INTEGER;
  const found = common.nextData(integer('fd', fd), integer('offsetBytes', offsetBytes, { max }));
  return found < 0 ? undefined : found;
}

export function pidfdOpen(pid: number): number {
  return addon().pidfdOpen(integer('pid', pid, { min: 1 }));
}

/** A duplicate of another process's descriptor; needs the right to ptrace it (EPERM). */
export function pidfdGetfd(pidfd: number, targetFd: number): number {
  return addon().pidfdGetfd(integer('pidfd', pidfd), integer('targetFd', targetFd));
}

/** ESRCH when the process has ended; signal 0 only checks. */
export function pidfdSendSignal(pidfd: number, signal: number): void {
  addon().pidfdSendSignal(integer('pidfd', pidfd), integer('signal', signal, { max: 64 }));
}

/** XXH3, 64 bits, seed 0, of `bytes[start … end)`. Shared memory is allowed while nothing writes to it. */
export function xxh3(bytes: Uint8Array, start = 0, end = bytes.length): bigint {
  if (!(
    Number.isInteger(start) &&
    Number.isInteger(end) &&
    0 <= start &&
    start <= end &&
    end <= bytes.length
  ))
    throw new RangeError(`bytes ${start} to ${end} asked for, 0 to ${bytes.length} there`);
  return common.xxh3(bytes, start, end);
}

/** Bytes of the hash of a page. */
export const PAGE_HASH_BYTES = 16;

/** XXH3, 128 bits, seed 0, of each of the first `pageCount` pages, the least significant byte first, into `hashes`. */
export function hashPages(pages: Uint8Array, pageCount: number, hashes: Uint8Array): void {
  integer('pageCount', pageCount, { max: Math.floor(pages.length / PAGE_BYTES) });
  integer('hashes.length', hashes.length, { min: pageCount * PAGE_HASH_BYTES });
  common.hashPages(pages, pageCount, hashes);
}

/**
 * Frees a VM that a broken background snapshot has frozen: removes userfaultfd write protection from the memory of
 * process `pid`, wakes its vCPUs, and unregisters the regions. Leaves memory under post-copy alone. Needs the right to
 * ptrace the process (EACCES, EPERM); ESRCH when there is no such process.
 */
export function rescueUserfaultfd(pid: number): RescueResult {
  return addon().rescueUserfaultfd(integer('pid', pid, { min: 1 }));
}

/** Duplicates of all userfaultfds of process `pid`. Needs the right to ptrace it (EACCES, EPERM). */
export function takeUserfaultfds(pid: number): number[] {
  return addon().takeUserfaultfds(integer('pid', pid, { min: 1 }));
}

/** Memory of process `pid` that is registered for missing pages: addresses below 2^47, [start, end). */
export function missingPageRegions(pid: number): { start: number; end: number }[] {
  const numbers = addon().missingPageRegions(integer('pid', pid, { min: 1 }));
  return Array.from({ length: numbers.length / 2 }, (_, at) => ({
    start: Number(numbers[2 * at]),
    end: Number(numbers[2 * at + 1]),
  }));
}

/** Whether [start, end), judging by its two ends, waits for missing pages of `pageBytes` at the userfaultfd. */
export function waitsAt(userfaultfd: number, start: number, end: number, pageBytes: number): boolean {
  return addon().waitsAt({
    userfaultfd: integer('userfaultfd', userfaultfd),
    start,
    end,
    pageBytes: integer('pageBytes', pageBytes),
  });
}

/**
 * For each of the pages from `address` on 1 if process `pid` has it, in memory or swapped out: pagemap of proc(5).
 * Needs to be the same user, or more.
 */
export function presentPages(pid: number, address: number, pageCount: number): Uint8Array {
  const count = integer('pageCount', pageCount, { max: 0xffff_ffff });
  return addon().presentPages(integer('pid', pid, { min: 1 }), address, count);
}
