import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, writeSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { isFileLocked, RECEIVER_PATH, syncFileRange, tryLockFile } from '../../../src/native/index.js';
import { printed, temporaryDirectory } from './temporary.js';

const ADDON_PATH = path.join(path.dirname(RECEIVER_PATH), 'vmckpt_native.node');

function open(file: string, flags = 'a+'): number {
  const fd = openSync(file, flags);
  onTestFinished(() => closeSync(fd));
  return fd;
}

describe('tryLockFile and isFileLocked', () => {
  test('keep two open file descriptions of one process apart', () => {
    const file = path.join(temporaryDirectory(), 'lock');
    const first = open(file);
    const second = open(file);
    expect(isFileLocked(second)).toBe(false);
    expect(tryLockFile(first)).toBe(true);
    expect(tryLockFile(first), 'taking it again').toBe(true);
    expect(tryLockFile(second)).toBe(false);
    expect(isFileLocked(second)).toBe(true);
    expect(isFileLocked(first), 'by somebody else').toBe(false);
  });

  test('release the lock with its descriptor', () => {
    const file = path.join(temporaryDirectory(), 'lock');
    const first = openSync(file, 'a+');
    const second = open(file);
    tryLockFile(first);
    closeSync(first);
    expect(tryLockFile(second)).toBe(true);
  });

  test('see the lock of another process, which does not outlive it', async () => {
    const file = path.join(temporaryDirectory(), 'lock');
    const fd = open(file);
    const source = `
      const fd = require('node:fs').openSync(${JSON.stringify(file)}, 'a+');
      console.log(require(${JSON.stringify(ADDON_PATH)}).tryLockFile(fd) ? 'locked' : 'refused');
      setInterval(() => {}, 1000);`;
    const holder = spawn(process.execPath, ['-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
    const exited = once(holder, 'exit');
    try {
      await printed(holder.stdout, 'locked');
      expect(isFileLocked(fd)).toBe(true);
      expect(tryLockFile(fd)).toBe(false);
    } finally {
      holder.kill('SIGKILL');
      await exited;
    }
    expect(tryLockFile(fd)).toBe(true);
  });

  test('need a descriptor that may write, to lock, and any to ask', () => {
    const file = path.join(temporaryDirectory(), 'lock');
    open(file);
    const readOnly = open(file, 'r');
    expect(() => tryLockFile(readOnly)).toThrow(expect.objectContaining({ code: 'EBADF', syscall: 'fcntl' }));
    expect(isFileLocked(readOnly)).toBe(false);
  });

  test('refuse what is no descriptor', () => {
    expect(() => tryLockFile(-1)).toThrow(RangeError);
    expect(() => isFileLocked(2 ** 32)).toThrow(RangeError);
  });
});

describe('syncFileRange', () => {
  test('accepts ranges of a file beyond 4 GiB', () => {
    const fd = open(path.join(temporaryDirectory(), 'data'), 'w');
    const offset = 5 * 2 ** 30;
    writeSync(fd, Buffer.alloc(8192, 1), 0, 8192, offset);
    expect(() => syncFileRange(fd, offset, 8192)).not.toThrow();
    expect(() => syncFileRange(fd, 0, 0)).not.toThrow();
  });

  test('fails with ESPIPE for a pipe and refuses negative ranges', async () => {
    const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] });
    const exited = once(child, 'exit');
    const { _handle } = child.stdin as unknown as { _handle: { fd: number } };
    expect(() => syncFileRange(_handle.fd, 0, 1)).toThrow(expect.objectContaining({ code: 'ESPIPE' }));
    expect(() => syncFileRange(1, -1, 1)).toThrow(RangeError);
    child.stdin.end();
    await exited;
  });
});
