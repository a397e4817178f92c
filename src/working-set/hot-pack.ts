/**
 * The file `hot-pack` in a generation's folder: copies of the extents of the working set, in the order in which a
 * restore wants them. native/core/hot_pack.h reads them from a cold disk in one sweep, where the extents themselves
 * are scattered. docs/working-set.md specifies its bytes.
 */
import fs from 'node:fs';
import { errnoOf, readAt, writeAt, writeFailure } from '../checkpoint/files.js';
import { HOT_PACK_FILE } from '../checkpoint/format.js';
import type { Hints } from '../checkpoint/hints.js';
import type { Manifest } from '../checkpoint/manifest.js';
import { hotPackTie } from '../checkpoint/native-image.js';
import type { CheckpointReader } from '../checkpoint/reader.js';
import { VmckptError } from '../errors.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { openRegular } from '../util/regular-file.js';
import { AT, headerOf, HEADER_BYTES } from './envelope.js';
import type { AdaptiveHistogram } from './histogram.js';
import { planPrefetch } from './plan.js';
import { replaceFile } from './replace-file.js';
import { concatenated, pagesOf } from './runs.js';
import type { InstallUnits } from './units.js';

/** The header counts extents, is tied to what holds them (hotPackTie), and covers the table that follows it. */
const ENVELOPE = { magic: 'VMCKPThp', version: 1 } as const;
const ENTRY_BYTES = 16;
/** Share of the packs: a larger set is read about as fast from there. */
const MAX_SHARE = 1 / 2;
/** Share of the set: after a smaller change the pack is left as it is. */
const TOLERATED_CHANGE = 1 / 8;

interface Entry {
  readonly extent: number;
  readonly storedBytes: number;
  readonly offset: number;
}

/** The maximum length of a generation's pack. */
export function maxPackBytes({ pages }: Manifest): number {
  return Math.floor(pages.fileBytes * MAX_SHARE);
}

/**
 * Rewrites the pack if it does not fit the set well enough.
 * @returns why that was not possible, as a clause for the user. Never throws, except for bugs.
 */
export async function refreshHotPack(
  hints: Hints,
  reader: CheckpointReader,
  set: { readonly histogram: AdaptiveHistogram; readonly units: InstallUnits },
): Promise<string | undefined> {
  // A pack may be half as large as the checkpoint: too much for a state folder.
  if (!hints.areBeside) return undefined;
  const file = hints.place(HOT_PACK_FILE);
  const maxBytes = maxPackBytes(reader.manifest);
  try {
    const extents = extentsOf(reader, set);
    if (fits(packedExtents(file, maxBytes), extents)) return undefined;
    // Another process may have written it while this one waited for its turn.
    await replaceFile(
      file,
      (fd) => !fits(packedExtents(file, maxBytes), extents) && writePack(fd, reader, extents),
    );
    return undefined;
  } catch (error) {
    if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
    return `the hot pack was not written: ${writeFailure(error, file).message}`;
  }
}

/** The extents that a restore wants first come first. */
function extentsOf(
  reader: CheckpointReader,
  { histogram, units }: { readonly histogram: AdaptiveHistogram; readonly units: InstallUnits },
): Set<number> {
  const everything = { budgetMs: Number.MAX_SAFE_INTEGER, fillBytesPerMs: 1, explore: 0 };
  const nobodyWithheld = { seed: 0, phase: 0 };
  const allPages = new Uint32Array(0);
  const plan = planPrefetch(
    { histogram, units, touched: allPages, exploration: nobodyWithheld, restoreCount: 0 },
    everything,
  );
  const extents = new Set<number>();
  for (const page of pagesOf(concatenated([plan.beforeResume, ...plan.afterResume])))
    if (reader.kindOf(page) === PAGE_KINDS.data) extents.add(reader.extentOf(page));
  return extents;
}

function fits(packed: ReadonlySet<number>, wanted: ReadonlySet<number>): boolean {
  const common = [...wanted].filter((extent) => packed.has(extent)).length;
  const changes = wanted.size - common + (packed.size - common);
  return changes <= wanted.size * TOLERATED_CHANGE;
}

/**
 * The extents that a pack claims to hold; none if there is no file, or it is too long. The reader verifies the claim.
 */
function packedExtents(file: string, maxBytes: number): Set<number> {
  let fd: number;
  try {
    fd = openRegular(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return new Set();
    throw error;
  }
  try {
    const { size } = fs.fstatSync(fd);
    if (size > maxBytes) return new Set();
    const header = Buffer.alloc(HEADER_BYTES);
    const isWhole =
      readAt(fd, header, 0) === HEADER_BYTES && header.toString('latin1', 0, AT.version) === ENVELOPE.magic;
    const count = isWhole ? Number(header.readBigUInt64LE(AT.bodySize)) : 0;
    if (HEADER_BYTES + count * ENTRY_BYTES > size) return new Set();
    const table = Buffer.alloc(count * ENTRY_BYTES);
    readAt(fd, table, HEADER_BYTES);
    return new Set(Array.from({ length: count }, (_, at) => table.readUInt32LE(at * ENTRY_BYTES)));
  } finally {
    fs.closeSync(fd);
  }
}

/** @returns false when the set is too large for a pack */
function writePack(fd: number, reader: CheckpointReader, extents: ReadonlySet<number>): boolean {
  const entries: Entry[] = [];
  let offset = HEADER_BYTES + extents.size * ENTRY_BYTES;
  for (const extent of extents) {
    const { storedBytes } = reader.extentInfo(extent);
    entries.push({ extent, storedBytes, offset });
    offset += storedBytes;
  }
  if (offset > maxPackBytes(reader.manifest)) return false;
  for (const { extent, storedBytes, offset } of entries) {
    const stored = Buffer.alloc(storedBytes);
    const { fd: from, offset: at } = reader.extentInfo(extent);
    readAt(from, stored, at);
    writeAt(fd, stored, offset);
  }
  const table = tableOf(entries);
  const tie = hotPackTie(reader.manifest);
  writeAt(fd, Buffer.concat([headerOf(ENVELOPE, { size: entries.length, tie, body: table }), table]), 0);
  return true;
}

function tableOf(entries: readonly Entry[]): Buffer {
  const table = Buffer.alloc(entries.length * ENTRY_BYTES);
  const ascending = [...entries].sort((a, b) => a.extent - b.extent);
  for (const [at, { extent, storedBytes, offset }] of ascending.entries()) {
    table.writeUInt32LE(extent, at * ENTRY_BYTES);
    table.writeUInt32LE(storedBytes, at * ENTRY_BYTES + 4);
    table.writeBigUInt64LE(BigInt(offset), at * ENTRY_BYTES + 8);
  }
  return table;
}
