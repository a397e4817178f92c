import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { DirtyPages } from '../../../src/save/dirty-pages.js';
import type { StreamMethod } from '../../../src/save/methods.js';

const PAGE_COUNT = 100;

/** What is found dirty when pages come in this order. */
function dirtyIn(method: StreamMethod, order: readonly number[]): readonly number[] {
  const seen: number[] = [];
  const sink = { fill: (page: number) => seen.push(page), data: (page: number) => seen.push(page) };
  const dirty = new DirtyPages(sink, { method, pageCount: PAGE_COUNT });
  for (const page of order)
    if (page % 2 === 0) dirty.fill(page, 0);
    else dirty.data(page, Buffer.alloc(PAGE_BYTES), 0);
  expect(seen).toEqual(order);
  return dirty.pages;
}

const range = (from: number, end: number) => Array.from({ length: end - from }, (_, i) => from + i);

describe('the pages that a guest writes to while it is saved', () => {
  it('come out of line in a background snapshot, which goes on behind them', () => {
    const order = [...range(0, 10), 50, ...range(51, 60), 20, 70, ...range(71, 100), ...range(10, 20)];
    expect(dirtyIn('background-snapshot', [...order, ...range(21, 50), ...range(60, 70)])).toEqual([
      50, 20, 70,
    ]);
  });

  it('are not taken for what the sweep passes over, or where it begins anew', () => {
    expect(dirtyIn('background-snapshot', range(0, PAGE_COUNT))).toEqual([]);
    const order = [...range(0, 10), 30, ...range(31, 100), ...range(10, 30)];
    expect(dirtyIn('background-snapshot', order)).toEqual([30]);
    expect(dirtyIn('background-snapshot', [5, 4, ...range(6, 100), ...range(0, 4)])).toEqual([5, 4]);
  });

  it('come again in a pre-copy, each counted once', () => {
    expect(dirtyIn('precopy', [...range(0, 40), ...range(60, 100), 7, 8, 3, 7])).toEqual([7, 8, 3]);
  });

  it('are none in a VM that stands still', () => {
    expect(dirtyIn('stopped', [3, 1, 2, 1])).toEqual([]);
  });
});
