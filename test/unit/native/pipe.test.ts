import { closeSync, writeSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { makePipe, readAvailable } from '../../../src/native/index.js';

const CAPACITY_BYTES = 256 << 10;

function pipe() {
  const { readEnd, writeEnd } = makePipe(CAPACITY_BYTES);
  onTestFinished(() => closeSync(readEnd));
  return { readEnd, writeEnd };
}

test('a pipe gives what it holds, then nothing yet, then the end', () => {
  const { readEnd, writeEnd } = pipe();
  const into = Buffer.alloc(10);
  expect(readAvailable(readEnd, into)).toBe(undefined);
  writeSync(writeEnd, 'hello world');
  expect(readAvailable(readEnd, into)).toBe(10);
  expect(into.toString()).toBe('hello worl');
  expect(readAvailable(readEnd, into)).toBe(1);
  expect(readAvailable(readEnd, into)).toBe(undefined);
  closeSync(writeEnd);
  expect(readAvailable(readEnd, into)).toBe(0);
});

test('a pipe holds what it was made for without a reader', () => {
  const { readEnd, writeEnd } = pipe();
  expect(writeSync(writeEnd, Buffer.alloc(CAPACITY_BYTES, 1))).toBe(CAPACITY_BYTES);
  expect(readAvailable(readEnd, Buffer.alloc(2 * CAPACITY_BYTES))).toBe(CAPACITY_BYTES);
  closeSync(writeEnd);
});

test('a descriptor that is none is an error of the system call', () => {
  expect(() => readAvailable(1_000_000, Buffer.alloc(1))).toThrow(
    expect.objectContaining({ code: 'EBADF', syscall: 'read' }),
  );
  expect(() => makePipe(0)).toThrow(RangeError);
});
