import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { writeProcessMemory } from '../../../src/native/index.js';

/** A process with a stack of its own to write into. */
async function sleeper(): Promise<{ pid: number; start: number; end: number }> {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const exited = once(child, 'exit');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  await once(child, 'spawn');
  const pid = child.pid!;
  const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) rw-p .*\[stack\]$/m.exec(
    readFileSync(`/proc/${pid}/maps`, 'latin1'),
  )!;
  return { pid, start: Number.parseInt(start!, 16), end: Number.parseInt(end!, 16) };
}

function memoryOf(pid: number, { at, length }: { at: number; length: number }): Buffer {
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, at);
  closeSync(fd);
  return bytes;
}

describe('writeProcessMemory', () => {
  test('puts every buffer at its address, more of them than the kernel takes in one call', async () => {
    const { pid, start } = await sleeper();
    const count = 3000;
    const buffers = Array.from({ length: count }, (_, index) => new Uint8Array([index & 255, index >> 8]));
    writeProcessMemory(
      pid,
      buffers,
      BigUint64Array.from(buffers, (_, index) => BigInt(start + index * 2)),
    );
    expect(memoryOf(pid, { at: start, length: count * 2 })).toEqual(Buffer.concat(buffers));
  });

  test('takes shared memory, and nothing at all', async () => {
    const { pid, start } = await sleeper();
    const shared = new Uint8Array(new SharedArrayBuffer(8)).fill(7);
    writeProcessMemory(pid, [new Uint8Array(0), shared], BigUint64Array.of(0n, BigInt(start)));
    expect(memoryOf(pid, { at: start, length: 8 })).toEqual(Buffer.from(shared));
  });

  test('fails where there is no memory, no process, or no address for a buffer', async () => {
    const { pid, start, end } = await sleeper();
    const page = new Uint8Array(4096).fill(1);
    const both = BigUint64Array.of(BigInt(start), BigInt(end));
    expect(() => writeProcessMemory(pid, [page, page], both)).toThrow(
      expect.objectContaining({ code: 'EFAULT', syscall: 'process_vm_writev' }),
    );
    expect(() => writeProcessMemory(2 ** 22 + 1, [page], BigUint64Array.of(0n))).toThrow(
      expect.objectContaining({ code: 'ESRCH' }),
    );
    expect(() => writeProcessMemory(pid, [page], both)).toThrow(RangeError);
  });
});
