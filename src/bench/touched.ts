/** Finds out which pages a restored guest touches while clients use it. A prediction is compared with them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CheckpointReader } from '../checkpoint/reader.js';
import { presentPages } from '../native/index.js';
import { PageBitmap } from '../pages/bitmap.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { VmFolder } from '../vms/folder.js';
import { readWorkingSet } from '../working-set/file.js';
import { pagesOf } from '../working-set/runs.js';
import { Clients } from './clients/clients.js';
import { killAndWait, killProcessesOf } from './processes.js';
import type { Room } from './run.js';
import type { SavedGuest } from './scenario.js';
import { restoreWishes } from './scenarios.js';
import { settleHost } from './workplace.js';

const TOUCHING_MS = 10_000;

/** A generation, and what a guest restored from it has touched within ten seconds. */
export interface Touched {
  readonly generationDir: string;
  readonly pages: PageBitmap;
}

/**
 * Restores the guest with nothing but what it asks for, page by page: what is in place afterwards was touched. Undefined
 * where that cannot be told, without the direct path.
 */
export async function touchedPages(
  saved: SavedGuest,
  { reference, generationDir, seed }: { reference: string; generationDir: string; seed: number },
  { runtimeDir, values }: Room,
): Promise<Touched | undefined> {
  const { guest, signal } = saved;
  await settleHost(guest.ramBytes);
  const clients = await Clients.prepare({ ports: guest.ports, values, seed });
  try {
    clients.begin();
    const how = { mode: 'lazy', path: 'auto', background: 'never', exactly: true, detach: true } as const;
    const { name, qemuPid, path } = await saved.restore({ ...restoreWishes(saved, reference), ...how });
    if (path !== 'direct') return undefined;
    await sleep(TOUCHING_MS, undefined, { signal });
    await clients.end();
    const pages = await pagesInPlace(name, generationDir);
    await killAndWait(qemuPid!);
    return { generationDir, pages };
  } finally {
    await clients.terminate();
    killProcessesOf(runtimeDir);
  }
}

async function pagesInPlace(name: string, generationDir: string): Promise<PageBitmap> {
  const { pid, blocks } = new VmFolder(name).readNoted()!.order!.memory!;
  const reader = await CheckpointReader.open(generationDir);
  const { layout } = reader;
  const found = new PageBitmap(layout.pageCount);
  for (const { blockName, hostAddress } of blocks) {
    const { firstPage, pageCount } = layout.byName(blockName)!;
    for (const [at, isPresent] of presentPages(pid, hostAddress, pageCount).entries())
      if (isPresent) found.claim(firstPage + at);
  }
  reader.close();
  return found;
}

/** Of the data pages that the last restore predicted: how many there were, and how many of them are touched. */
export async function heldAgainst({
  generationDir,
  pages,
}: Touched): Promise<{ pages: number; usedPages: number } | undefined> {
  const reader = await CheckpointReader.open(generationDir);
  const { lastTrace } = readWorkingSet(reader.hints, reader.layout.pageCount).workingSet;
  const predicted = [...pagesOf(lastTrace?.prefetched ?? new Uint32Array(0))].filter(
    (page) => reader.kindOf(page) === PAGE_KINDS.data,
  );
  reader.close();
  if (predicted.length === 0) return undefined;
  return { pages: predicted.length, usedPages: predicted.filter((page) => pages.has(page)).length };
}
