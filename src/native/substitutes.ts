/**
 * Replaces the addon where there is none: the same calls with the same meaning, made by Node.js itself, by
 * WebAssembly, or by Perl for system calls that Node.js lacks. They use the same kernel locks, so that processes with
 * and without the addon exclude each other.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createXXHash128, createXXHash3 } from 'hash-wasm';
import { PAGE_BYTES } from '../pages/layout.js';
import type { Substitutable } from './calls.js';
import { perlCall, perlSendFd } from './perl.js';

const F_UNLCK = 2;

const PAGE_HASH_BYTES = 16;

const hasher = await createXXHash3();
const pageHasher = await createXXHash128();

export const substitutes: Substitutable = {
  tryLockFile(fd) {
    try {
      perlCall('F_OFD_SETLK', fd);
      return true;
    } catch (error) {
      if (isErrno(error, 'EAGAIN') || isErrno(error, 'EACCES')) return false;
      throw error;
    }
  },

  isFileLocked: (fd, byte) =>
    perlCall('F_OFD_GETLK', fd, ...(byte === undefined ? [0, 0] : [byte, 1]))[0] !== F_UNLCK,

  peerCredentials(fd) {
    const [pid, uid, gid] = perlCall('SO_PEERCRED', fd) as [number, number, number];
    return { pid, uid, gid };
  },

  sendFds(socketFd, payload, fds) {
    const [fd] = fds;
    if (fd === undefined || fds.length > 1)
      throw new RangeError(`expected one descriptor, not ${fds.length}`);
    perlSendFd(socketFd, payload, fd);
  },

  makePipe(capacityBytes) {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'vmckpt-pipe-'));
    const name = path.join(directory, 'pipe');
    try {
      execFileSync('mkfifo', ['-m', '600', name]);
      const readEnd = fs.openSync(name, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
      const writeEnd = fs.openSync(name, 'w');
      enlargePipe(readEnd, capacityBytes);
      return [readEnd, writeEnd];
    } finally {
      fs.rmSync(directory, { recursive: true });
    }
  },

  readAvailable(fd, into) {
    try {
      return fs.readSync(fd, into);
    } catch (error) {
      if (isErrno(error, 'EAGAIN')) return -1;
      throw error;
    }
  },

  /** Without it, the fsync at the end only has more to do. */
  syncFileRange: () => undefined,

  readAhead: () => Promise.resolve(),

  exitNow: (code) => process.exit(code),

  /** Holes are not detected: they are read as the zeros that they hold. */
  nextData: (fd, offsetBytes) => (offsetBytes < fs.fstatSync(fd).size ? offsetBytes : -1),

  xxh3(bytes, start, end) {
    hasher.init();
    hasher.update(bytes.subarray(start, end));
    return BigInt(`0x${hasher.digest('hex')}`);
  },

  hashPages(pages, pageCount, hashes) {
    for (let page = 0; page < pageCount; page++) {
      pageHasher.init();
      pageHasher.update(pages.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
      // The digest has the most significant byte first.
      hashes.set(pageHasher.digest('binary').reverse(), page * PAGE_HASH_BYTES);
    }
  },
};

/** A user who has many pipes gets small ones, which are only slower. */
function enlargePipe(fd: number, capacityBytes: number): void {
  try {
    perlCall('F_SETPIPE_SZ', fd, capacityBytes);
  } catch (error) {
    if (!isErrno(error, 'EPERM')) throw error;
  }
}

function isErrno(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}
