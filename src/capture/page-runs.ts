/** Sets of pages as (first, count) pairs. */
import type { PageRuns } from './tracker.js';

export function countPages(runs: PageRuns): number {
  let count = 0;
  for (let at = 1; at < runs.length; at += 2) count += runs[at]!;
  return count;
}

/** Every page, in order. */
export function* eachPage(runs: PageRuns): Generator<number> {
  for (let at = 0; at < runs.length; at += 2)
    for (let page = runs[at]!; page < runs[at]! + runs[at + 1]!; page++) yield page;
}

/** All pages, in pieces of at most `maxPages`. */
export function* stretchesOf(runs: PageRuns, maxPages: number): Generator<Uint32Array> {
  let stretch = new Uint32Array(maxPages);
  let length = 0;
  for (const page of eachPage(runs)) {
    stretch[length++] = page;
    if (length < maxPages) continue;
    yield stretch;
    stretch = new Uint32Array(maxPages);
    length = 0;
  }
  if (length > 0) yield stretch.subarray(0, length);
}

/** Numbers, each `step` from the one before or not, as (first, count)… */
export function joinPages(numbers: readonly number[], step: number): number[] {
  const runs: number[] = [];
  for (const number of numbers) {
    const last = runs.length - 2;
    if (last >= 0 && number === runs[last]! + runs[last + 1]! * step) runs[last + 1]!++;
    else runs.push(number, 1);
  }
  return runs;
}
