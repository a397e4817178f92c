import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { xxh3 } from '../../../src/native/index.js';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';

/** The input of xxHash's published test vectors: a 64-bit multiplicative generator's top bytes. */
function vectorInput(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 2654435761n;
  for (let i = 0; i < length; i++) {
    bytes[i] = Number(state >> 56n);
    state = (state * 11400714785074694797n) & 0xffff_ffff_ffff_ffffn;
  }
  return bytes;
}

/** One length for each of the algorithm's branches. */
const VECTORS = [
  [0, 0x2d06800538d394c2n],
  [1, 0xc44bdff4074eecdbn],
  [6, 0x27b56a84cd2d7325n],
  [12, 0xa713daf0dfbb77e7n],
  [24, 0xa3fe70bf9d3510ebn],
  [48, 0x397da259ecba1f11n],
  [80, 0xbcdefbbb2c47c90an],
  [195, 0xcd94217ee362ec3an],
  [403, 0xcdeb804d65c6dea4n],
  [512, 0x617e49599013cb6bn],
  [2048, 0xdd59e2c3a5f038e0n],
  [2240, 0x6e73a90539cf2948n],
] as const;

describe('xxh3', () => {
  test.each(VECTORS)('agrees with the published vector for %i bytes', (length, expected) => {
    expect(xxh3(vectorInput(length))).toBe(expected);
  });

  test('hashes only the range asked for', () => {
    const bytes = vectorInput(2300);
    expect(xxh3(bytes, 100, 1124)).toBe(xxh3(bytes.slice(100, 1124)));
    expect(xxh3(bytes, 7)).toBe(xxh3(bytes.slice(7)));
    expect(xxh3(bytes, 2300)).toBe(0x2d06800538d394c2n);
  });

  test('respects where a view lies in its buffer', () => {
    const bytes = vectorInput(4096);
    expect(xxh3(bytes.subarray(1000, 3000), 10, 20)).toBe(xxh3(bytes.slice(1010, 1020)));
    expect(xxh3(Buffer.from(bytes.buffer, 512, 512))).toBe(xxh3(bytes.slice(512, 1024)));
  });

  test('hashes shared memory', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(512 + 8), 8);
    shared.set(vectorInput(512));
    expect(xxh3(shared)).toBe(0x617e49599013cb6bn);
  });

  test.each([
    [-1, 4],
    [0, 17],
    [9, 8],
    [0.5, 8],
    [NaN, 8],
  ])('refuses the range %d to %d of 16 bytes', (start, end) => {
    expect(() => xxh3(new Uint8Array(16), start, end)).toThrow(RangeError);
  });

  test('loads in a worker thread beside the main one', async () => {
    const source = `
      const { parentPort, workerData } = require('node:worker_threads');
      parentPort.postMessage(require(workerData).xxh3(new Uint8Array(0), 0, 0));`;
    const worker = new Worker(source, {
      eval: true,
      workerData: `${PACKAGE_ROOT}/build/Release/vmckpt_native.node`,
    });
    try {
      const hash = await new Promise((resolve, reject) =>
        worker.once('message', resolve).once('error', reject),
      );
      expect(hash).toBe(xxh3(new Uint8Array(0)));
    } finally {
      await worker.terminate();
    }
  });
});
