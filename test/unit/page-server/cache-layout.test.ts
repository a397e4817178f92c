/** The numbers of docs/remote.md. */
import { describe, expect, test } from 'vitest';
import {
  PRESENCE,
  WANT_BYTES,
  bitmapBytes,
  decodeWant,
  encodeWant,
  packKey,
  presenceFile,
  storeKey,
  type Want,
} from '../../../src/page-server/cache-layout.js';
import { LANES, MAX_RANGE_BYTES } from '../../../src/page-server/contracts.js';

const packId = '00112233445566778899aabbccddeeff';

describe('a record of wants', () => {
  test.each(LANES)('lane %s', (lane) => {
    const want: Want = { packId, offset: 2 ** 40 + 4096, length: 32768, lane, isAgain: lane === 'demand' };
    expect(decodeWant(encodeWant(want))).toEqual(want);
  });

  test('lies as documented', () => {
    const record = encodeWant({ packId, offset: 0x1000, length: 5, lane: 'rest', isAgain: true });
    expect(record.toString('hex')).toBe(`${packId}001000000000000005000000${'02010000'}`);
    expect(record).toHaveLength(WANT_BYTES);
  });

  test.each([
    ['an unknown lane', 28, 3],
    ['an unknown flag', 29, 2],
    ['a byte that is to be zero', 31, 1],
  ])('%s is refused', (_what, at, value) => {
    const record = encodeWant({ packId, offset: 0, length: 1, lane: 'demand', isAgain: false });
    record[at] = value;
    expect(decodeWant(record)).toBeUndefined();
  });

  test.each([0, MAX_RANGE_BYTES + 1])('a length of %i is refused', (length) => {
    expect(
      decodeWant(encodeWant({ packId, offset: 0, length, lane: 'demand', isAgain: false })),
    ).toBeUndefined();
  });
});

test('the bits of a pack take whole pages', () => {
  const pageOfBits = PRESENCE.headerBytes * 8 * PRESENCE.blockBytes;
  expect([1, pageOfBits, pageOfBits + 1].map(bitmapBytes)).toEqual([4096, 4096, 8192]);
});

test('names', () => {
  const manifest = Buffer.from('{\n  "a": 1,\n  "manifestXxh3": "0123456789abcdef"\n}\n');
  expect(storeKey(packId, manifest)).toBe(`${packId}-0123456789abcdef`);
  expect(presenceFile(packId)).toBe(`pack-${packId}.present`);
});

test('neither its place nor its use is part of the name of a pack', () => {
  const pack = {
    ...{ place: 1, id: packId, fileBytes: 8192, extentCount: 1, pageCount: 8, chunkCount: 1 },
    ...{ recordsRoot: '0'.repeat(16), chunksRoot: '1'.repeat(16), usedPageCount: 5 },
  };
  expect(packKey({ ...pack, place: 2, usedPageCount: undefined })).toBe(packKey(pack));
  expect(packKey({ ...pack, chunksRoot: '2'.repeat(16) })).not.toBe(packKey(pack));
});
