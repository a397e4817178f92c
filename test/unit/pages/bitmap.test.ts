import { describe, expect, it } from 'vitest';
import { PageBitmap } from '../../../src/pages/bitmap.js';

describe('a bitmap of pages', () => {
  const withPages = (pageCount: number, pages: readonly number[]): PageBitmap => {
    const bitmap = new PageBitmap(pageCount);
    for (const page of pages) bitmap.claim(page);
    return bitmap;
  };

  it.each([0, 1, 31, 32, 33, 63, 64, 99])('finds the next page that is clear, from page %i on', (from) => {
    const taken = [0, 1, 30, 31, 32, 33, 62, 63, ...Array.from({ length: 32 }, (_, i) => 64 + i)];
    const expected = Array.from({ length: 100 }, (_, page) => page).find(
      (page) => page >= from && !taken.includes(page),
    );
    expect(withPages(100, taken).nextClear(from)).toBe(expected);
  });

  it('says where it ends when none is clear', () => {
    expect(withPages(3, [0, 1, 2]).nextClear(1)).toBe(3);
    expect(withPages(3, []).nextClear(3)).toBe(3);
    expect(
      withPages(
        64,
        Array.from({ length: 64 }, (_, page) => page),
      ).nextClear(64),
    ).toBe(64);
  });
});
