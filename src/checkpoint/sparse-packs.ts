/**
 * Packs of the generation before of which little is used any more: what is left of them is written into the new one, so
 * that disk use levels off. What that costs is bounded. A restore of a generation with few packs reads fewer files, too.
 */
import { VmckptError } from '../errors.js';
import { MAX_BURST_BYTES } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import type { BaseGeneration } from './base-generation.js';
import { MAX_PACKS, NUMBERS_PER_PLACE } from './format.js';
import type { Pack } from './manifest-schema.js';
import type { PagesWriter } from './pages-writer.js';

/** A pack with less in use than this is sparse. */
const SPARSE_SHARE = 0.5;
/** Of the bytes that a save stores: what it may write for the sake of sparse packs, */
const MAX_REWRITTEN_SHARE = 0.25;
/** though a small save may write so much. */
const MIN_REWRITTEN_BYTES = 8 << 20;
/**
 * Where pages are inherited, the index is not gone through for less than this share of older versions of pages, nor for
 * fewer of them than this.
 */
const MAX_INHERITED_WASTE = 0.125;
const MIN_INHERITED_WASTE_PAGES = 2048;
const BURST_PAGES = MAX_BURST_BYTES / PAGE_BYTES;

interface Usage {
  readonly pack: Pack;
  readonly livePages: number;
  /** Of the extents, as far as pages take the same room. */
  readonly liveBytes: number;
}

/**
 * Stores the pages of sparse packs once more, in page order, if the limits allow.
 * @returns the packs of the base that no page is in any more
 */
export async function leaveSparsePacks(
  writer: PagesWriter,
  base: BaseGeneration,
): Promise<ReadonlySet<Pack>> {
  const usages = usagesOf(base.manifest.packs, writer.livePages);
  if (base.isInherited && !isWorthALook(base, writer))
    return new Set(usages.filter(({ livePages }) => livePages === 0).map(({ pack }) => pack));
  const dropped = new Set(choose(usages, { storedBytes: writer.storedBytes, maxPacks: maxPacksOf(base) }));
  if (usages.every(({ pack, livePages }) => !dropped.has(pack) || livePages === 0)) return dropped;
  const { reader } = base;
  const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
  let inBurst = 0;
  let extent = -1;
  for (const page of writer.pagesIn(dropped)) {
    const pack = base.packAt(Math.floor(reader.extentOf(page) / NUMBERS_PER_PLACE))!;
    if (!dropped.has(pack)) continue;
    if (inBurst++ % BURST_PAGES === 0) await writer.ready();
    try {
      if (reader.extentOf(page) !== extent) reader.readExtent(reader.extentOf(page), into);
      extent = reader.extentOf(page);
    } catch (error) {
      if (!(error instanceof VmckptError)) throw error;
      // The page stays where it is. A restore that needs it names the damage.
      dropped.delete(pack);
      continue;
    }
    writer.store(page, into, reader.slotOf(page) * PAGE_BYTES);
  }
  await writer.drain();
  return dropped;
}

function usagesOf(packs: readonly Pack[], live: ReadonlyMap<number, number>): Usage[] {
  return packs
    .map((pack) => {
      const livePages = live.get(pack.place) ?? 0;
      const share = pack.pageCount === 0 ? 0 : livePages / pack.pageCount;
      return { pack, livePages, liveBytes: share * pack.fileBytes };
    })
    .sort((a, b) => a.liveBytes - b.liveBytes);
}

/** Which pages are in a pack takes a look at the whole index. */
function isWorthALook({ manifest }: BaseGeneration, { counts }: PagesWriter): boolean {
  if (manifest.packs.length >= MAX_PACKS) return true;
  const wastePages = manifest.pages.supersededPageCount + counts.superseded;
  return wastePages > Math.max(counts.data * MAX_INHERITED_WASTE, MIN_INHERITED_WASTE_PAGES);
}

/** If there are too many, that is not to be so again with the next save, where it takes a look at the whole index. */
function maxPacksOf({ isInherited, manifest }: BaseGeneration): number {
  return isInherited && manifest.packs.length >= MAX_PACKS ? MAX_PACKS / 2 : MAX_PACKS;
}

/** The emptiest first. */
function choose(
  usages: readonly Usage[],
  { storedBytes, maxPacks }: { readonly storedBytes: number; readonly maxPacks: number },
): Pack[] {
  let roomBytes = Math.max(storedBytes * MAX_REWRITTEN_SHARE, MIN_REWRITTEN_BYTES);
  // One more is new.
  let tooMany = usages.length + 1 - maxPacks;
  const chosen: Pack[] = [];
  for (const { pack, livePages, liveBytes } of usages) {
    const isSparse = livePages < pack.pageCount * SPARSE_SHARE && liveBytes <= roomBytes;
    if (livePages > 0 && !isSparse && tooMany <= 0) continue;
    chosen.push(pack);
    roomBytes -= liveBytes;
    tooMany--;
  }
  return chosen;
}
