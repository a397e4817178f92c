import type { PageRange } from '../pages/layout.js';

/**
 * Sets and sequences of pages in the form for native code: [firstPage, pageCount, firstPage, pageCount, …]. A set has
 * disjoint runs in ascending order; a sequence has its runs in the order in which they are processed.
 */
export type PageRuns = Uint32Array;

/** Collects pages in the order in which they are processed. Consecutive pages share a run. */
export class RunList {
  readonly #words: number[] = [];

  add(firstPage: number, pageCount = 1): void {
    const last = this.#words.length - 2;
    if (last >= 0 && this.#words[last]! + this.#words[last + 1]! === firstPage)
      this.#words[last + 1]! += pageCount;
    else this.#words.push(firstPage, pageCount);
  }

  finish(): PageRuns {
    return Uint32Array.from(this.#words);
  }
}

/** The runs of a set of distinct pages, given in any order. */
export function runsOf(pages: ArrayLike<number>): PageRuns {
  const runs = new RunList();
  for (const page of new Uint32Array(pages).sort()) runs.add(page);
  return runs.finish();
}

export function* pagesOf(runs: PageRuns): Generator<number> {
  for (let at = 0; at < runs.length; at += 2)
    for (let page = runs[at]!, end = page + runs[at + 1]!; page < end; page++) yield page;
}

export function rangesOf(runs: PageRuns): PageRange[] {
  return Array.from({ length: runs.length / 2 }, (_, run) => {
    const [firstPage, pageCount] = [runs[2 * run]!, runs[2 * run + 1]!];
    return { firstPage, endPage: firstPage + pageCount };
  });
}

export function countPages(runs: PageRuns): number {
  let count = 0;
  for (let at = 1; at < runs.length; at += 2) count += runs[at]!;
  return count;
}

/** One sequence after the other. */
export function concatenated(sequences: readonly PageRuns[]): PageRuns {
  const all = new Uint32Array(sequences.reduce((length, runs) => length + runs.length, 0));
  let at = 0;
  for (const runs of sequences) {
    all.set(runs, at);
    at += runs.length;
  }
  return all;
}
