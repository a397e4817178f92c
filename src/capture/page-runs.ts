/** Sets of pages as (first, count) pairs. */
import type { PageRange, PageRuns } from './tracker.js';

export function countPages(runs: PageRuns): number {
  let count = 0;
  for (let at = 1; at < runs.length; at += 2) count += runs[at]!;
  return count;
}

/** From the first to the last. */
export function rangeOf(runs: PageRuns): PageRange {
  const firstPage = runs[0] ?? 0;
  return { firstPage, pageCount: (runs.at(-2) ?? 0) + (runs.at(-1) ?? 0) - firstPage };
}

/** Every page, in order. */
export function* eachPage(runs: PageRuns): Generator<number> {
  for (let at = 0; at < runs.length; at += 2)
    for (let page = runs[at]!; page < runs[at]! + runs[at + 1]!; page++) yield page;
}

/** The pages of `runs` that are not in `others`. Both ascend. */
export function without(runs: PageRuns, others: PageRuns): PageRuns {
  const left: number[] = [];
  let other = 0;
  for (let at = 0; at < runs.length; at += 2) {
    let first = runs[at]!;
    const end = first + runs[at + 1]!;
    while (other < others.length && others[other]! + others[other + 1]! <= first) other += 2;
    for (let next = other; next < others.length && others[next]! < end; next += 2) {
      if (others[next]! > first) left.push(first, others[next]! - first);
      first = Math.max(first, others[next]! + others[next + 1]!);
    }
    if (first < end) left.push(first, end - first);
  }
  return Uint32Array.from(left);
}

/** The same pages, in groups of at most `maxPages`. */
export function* groupsOf(runs: PageRuns, maxPages: number): Generator<PageRuns> {
  let group: number[] = [];
  let room = maxPages;
  for (let at = 0; at < runs.length; at += 2) {
    const end = runs[at]! + runs[at + 1]!;
    for (let first = runs[at]!; first < end;) {
      const count = Math.min(room, end - first);
      group.push(first, count);
      first += count;
      room -= count;
      if (room > 0) continue;
      yield Uint32Array.from(group);
      group = [];
      room = maxPages;
    }
  }
  if (group.length > 0) yield Uint32Array.from(group);
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
