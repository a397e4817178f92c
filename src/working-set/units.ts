/**
 * A unit is what one demand fault installs: a page with the other pages of its extent; a zero page with the zero
 * pages in its window of 128 KiB; or a page of one repeated byte alone. Neighbours that came with a fault cannot
 * fault themselves. So it is units, not pages, that fault, that a prefetch saves from faulting, and that may be
 * withheld to see whether they would have faulted. All pages of a unit share one entry in the histogram.
 *
 * A unit is named by its lowest page, its *leader*. Unlike the numbers of extents, page numbers mean the same in the
 * next generation of a machine.
 */
import { MAX_EXTENT_PAGES, PAGE_KINDS, type PageCatalog } from '../pages/contracts.js';

/** FaultServer::kZeroWindowPages in native/core/fault_server.h is the same. */
export const ZERO_WINDOW_PAGES = 32;

export interface InstallUnits {
  /** Of the whole RAM; any page below it may be passed. */
  readonly pageCount: number;
  leaderOf(page: number): number;
  holdsData(page: number): boolean;
  /** All pages of the unit that holds `page`, ascending, including `page`. */
  membersOf(page: number): number[];
}

type ExtentMap = Pick<PageCatalog, 'layout' | 'kindOf' | 'extentOf'>;

/**
 * The units of a checkpoint. The page index only tells a page's extent, so the pages of an extent are found by
 * searching nearby. They are adjacent, unless the guest wrote to one during the save; such a page is a unit of its
 * own. The methods throw what the source throws (INDEX_DAMAGED).
 */
export function installUnits(source: ExtentMap): InstallUnits {
  const siblings = (page: number, step: 1 | -1): number[] =>
    readsAsZero(source, page) ? zerosBeside(source, page, step) : siblingsOf(source, page, step);
  return {
    pageCount: source.layout.pageCount,
    holdsData: (page) => source.kindOf(page) === PAGE_KINDS.data,
    leaderOf: (page) => siblings(page, -1).at(-1) ?? page,
    membersOf: (page) => [...siblings(page, -1).reverse(), page, ...siblings(page, 1)],
  };
}

/**
 * The pages of the same extent on one side of `page`, nearest first. The search ends at a page of another extent, or
 * after the maximum length of an extent without a page of this one.
 */
function siblingsOf(source: ExtentMap, page: number, step: 1 | -1): number[] {
  if (source.kindOf(page) !== PAGE_KINDS.data) return [];
  const extent = source.extentOf(page);
  const { firstPage, pageCount } = source.layout.blockOf(page);
  const siblings: number[] = [];
  let nearest = page;
  for (let other = page + step; Math.abs(other - nearest) < MAX_EXTENT_PAGES; other += step) {
    if (other < firstPage || other >= firstPage + pageCount) break;
    if (source.kindOf(other) !== PAGE_KINDS.data) continue;
    if (source.extentOf(other) !== extent) break;
    siblings.push(other);
    nearest = other;
  }
  return siblings;
}

function readsAsZero(source: ExtentMap, page: number): boolean {
  const kind = source.kindOf(page);
  return kind === PAGE_KINDS.zero || kind === PAGE_KINDS.absent;
}

/** The zero pages that follow `page` on one side within its window. */
function zerosBeside(source: ExtentMap, page: number, step: 1 | -1): number[] {
  const { firstPage, pageCount } = source.layout.blockOf(page);
  const window = Math.floor(page / ZERO_WINDOW_PAGES) * ZERO_WINDOW_PAGES;
  const first = Math.max(window, firstPage);
  const end = Math.min(window + ZERO_WINDOW_PAGES, firstPage + pageCount);
  const zeros: number[] = [];
  for (let other = page + step; other >= first && other < end && readsAsZero(source, other); other += step)
    zeros.push(other);
  return zeros;
}
