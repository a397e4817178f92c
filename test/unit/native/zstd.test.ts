import zlib from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { fromNode, zstd, type NodeZstd } from '../../../src/native/zstd.js';

const isInNode = 'zstdCompressSync' in zlib;

test.skipIf(!isInNode)("Node's own zstd and zstd-napi read each other's frames (needs Node 22.15)", () => {
  const node = fromNode(zlib as unknown as NodeZstd);
  const bytes = fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 32_768, size: 'max' }),
    fc
      .tuple(fc.nat(255), fc.integer({ min: 1, max: 32_768 }))
      .map(([byte, length]) => Buffer.alloc(length, byte)),
  );
  fc.assert(
    fc.property(bytes, fc.integer({ min: 1, max: 19 }), (original, level) => {
      for (const [from, to] of [
        [node, zstd()],
        [zstd(), node],
      ] as const) {
        const stored = new Uint8Array(from.bound(original.length));
        const storedBytes = from.compressor(level)(original, stored);
        const back = new Uint8Array(original.length);
        expect(to.decompressor()(stored.subarray(0, storedBytes), back)).toBe(original.length);
        expect(Buffer.from(back).equals(original)).toBe(true);
      }
    }),
    { numRuns: 50 },
  );
  const frame = new Uint8Array(node.bound(100));
  const frameBytes = node.compressor(1)(new Uint8Array(100), frame);
  expect(() => node.decompressor()(frame.subarray(0, frameBytes), new Uint8Array(99))).toThrow();
  expect(() => node.decompressor()(Buffer.alloc(20, 7), new Uint8Array(99))).toThrow();
});
