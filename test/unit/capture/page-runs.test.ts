import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  countPages,
  eachPage,
  groupsOf,
  joinPages,
  stretchesOf,
  without,
} from '../../../src/capture/page-runs.js';

const pageSet = fc.uniqueArray(fc.nat(200), { maxLength: 60 }).map((pages) => pages.sort((a, b) => a - b));
const runsOf = (pages: readonly number[]) => Uint32Array.from(joinPages(pages, 1));

test('runs hold the pages that they are made of, and joined neighbours', () => {
  expect([...runsOf([3, 4, 5, 9])]).toEqual([3, 3, 9, 1]);
  expect(joinPages([4096, 8192, 16384], 4096)).toEqual([4096, 2, 16384, 1]);
  fc.assert(
    fc.property(pageSet, (pages) => {
      expect([...eachPage(runsOf(pages))]).toEqual(pages);
      expect(countPages(runsOf(pages))).toBe(pages.length);
    }),
  );
});

test('what is left of runs without others is the difference of the sets', () => {
  fc.assert(
    fc.property(pageSet, pageSet, (pages, others) => {
      const left = pages.filter((page) => !others.includes(page));
      expect([...eachPage(without(runsOf(pages), runsOf(others)))]).toEqual(left);
    }),
  );
});

test('groups and stretches hold all pages in order, and no more at a time than allowed', () => {
  fc.assert(
    fc.property(pageSet, fc.integer({ min: 1, max: 70 }), (pages, max) => {
      const groups = [...groupsOf(runsOf(pages), max)];
      expect(groups.flatMap((group) => [...eachPage(group)])).toEqual(pages);
      const stretches = [...stretchesOf(runsOf(pages), max)];
      expect(stretches.flatMap((stretch) => [...stretch])).toEqual(pages);
      for (const count of [...groups.map(countPages), ...stretches.map(({ length }) => length)])
        expect(count).toBeLessThanOrEqual(max);
    }),
  );
});
