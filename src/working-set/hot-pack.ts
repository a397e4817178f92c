/**
 * The file `hot-pack` in a generation's folder: copies of the extents of the working set, in the order in which a
 * restore wants them. native/core/hot_pack.h reads them from a cold disk in one sweep, where the extents themselves
 * are scattered. It names extents by their packs, so that it goes on to be of use for later generations that have the
 * same extents: these share the file. docs/working-set.md specifies its bytes.
 */
import fs from 'node:fs';
import { errnoOf, readAt, writeAt, writeFailure } from '../checkpoint/files.js';
import { HOT_PACK_FILE } from '../checkpoint/format.js';
import type { Hints } from '../checkpoint/hints.js';
import { extentOriginsOf, type ExtentOrigin, type Manifest } from '../checkpoint/manifest.js';
import type { CheckpointReader } from '../checkpoint/reader.js';
import { VmckptError } from '../errors.js';
import { xxh3 } from '../native/index.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { openRegular } from '../util/regular-file.js';
import { AT, headerOf, HEADER_BYTES } from './envelope.js';
import type { AdaptiveHistogram } from './histogram.js';
import { planPrefetch } from './plan.js';
import { replaceFile } from './replace-file.js';
import { concatenated, pagesOf } from './runs.js';
import type { InstallUnits } from './units.js';

/** The header counts extents and, in place of a tie, the files that they come from. It covers the tables behind it. */
const ENVELOPE = { magic: 'VMCKPThp', version: 2 } as const;
const ORIGIN = { id: 0, idBytes: 16, extentCount: 16, bytes: 24 } as const;
const ENTRY = { number: 0, storedBytes: 4, offset: 8, bytes: 16 } as const;
/** Share of the packs: a larger set is read about as fast from there. */
const MAX_SHARE = 1 / 2;
/** Share of the set: after a smaller change the pack is left as it is. */
const TOLERATED_CHANGE = 1 / 8;
/** Of a pack's extents: a later generation that wants fewer of them does without. A restore would read the others, too. */
const MIN_USED_SHARE = 1 / 2;

/** What a hot pack claims to hold. The native reader verifies the claim. */
interface Packed {
  /** Of all generations. */
  readonly count: number;
  /** Those that the generation at hand has. */
  readonly extents: ReadonlySet<number>;
}

/** The set of units that is to be in a hot pack. */
export interface HotSet {
  readonly histogram: AdaptiveHistogram;
  readonly units: InstallUnits;
}

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
  set: HotSet,
): Promise<string | undefined> {
  // A pack may be half as large as the checkpoint: too much for a state folder.
  if (!hints.areBeside) return undefined;
  const file = hints.place(HOT_PACK_FILE);
  const { manifest } = reader;
  try {
    const extents = extentsOf(reader, set);
    if (fits(readPacked(file, manifest), extents)) return undefined;
    // Another process may have written it while this one waited for its turn.
    await replaceFile(
      file,
      (fd) => !fits(readPacked(file, manifest), extents) && writePack(fd, reader, extents),
    );
    return undefined;
  } catch (error) {
    if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
    return `the hot pack was not written: ${writeFailure(error, file).message}`;
  }
}

/**
 * Shares the hot pack of the generation before with the one that `reader` reads, if that has most of its extents and
 * wants them. Otherwise there is none. Never throws, except for bugs.
 */
export function inheritHotPack(former: Hints, reader: CheckpointReader, set: HotSet): void {
  if (!reader.hints.areBeside) return;
  try {
    const file = former.find(HOT_PACK_FILE);
    const { count, extents } = readPacked(file, reader.manifest);
    if (extents.size === 0) return;
    const wanted = extentsOf(reader, set);
    const usedCount = [...wanted].filter((extent) => extents.has(extent)).length;
    if (usedCount < count * MIN_USED_SHARE) return;
    fs.linkSync(file, reader.hints.place(HOT_PACK_FILE));
  } catch (error) {
    if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
  }
}

/** The extents that a restore wants first come first. */
function extentsOf(reader: CheckpointReader, { histogram, units }: HotSet): Set<number> {
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

function fits({ count, extents }: Packed, wanted: ReadonlySet<number>): boolean {
  const common = [...wanted].filter((extent) => extents.has(extent)).length;
  const changes = wanted.size - common + (count - common);
  return changes <= wanted.size * TOLERATED_CHANGE;
}

/** Nothing if there is no file, or one that is no hot pack, or longer than one of this generation may be. */
function readPacked(file: string, manifest: Manifest): Packed {
  const nothing = { count: 0, extents: new Set<number>() };
  let fd: number;
  try {
    fd = openRegular(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return nothing;
    throw error;
  }
  try {
    const { size } = fs.fstatSync(fd);
    if (size > maxPackBytes(manifest)) return nothing;
    const header = Buffer.alloc(HEADER_BYTES);
    if (readAt(fd, header, 0) !== HEADER_BYTES || !isHeader(header)) return nothing;
    const count = Number(header.readBigUInt64LE(AT.bodySize));
    const originCount = Number(header.readBigUInt64LE(AT.tie));
    const tableBytes = originCount * ORIGIN.bytes + count * ENTRY.bytes;
    if (HEADER_BYTES + tableBytes > size) return nothing;
    const tables = Buffer.alloc(tableBytes);
    readAt(fd, tables, HEADER_BYTES);
    if (xxh3(tables) !== header.readBigUInt64LE(AT.bodyChecksum)) return nothing;
    return { count, extents: extentsIn(tables, originCount, manifest) };
  } finally {
    fs.closeSync(fd);
  }
}

function isHeader(header: Buffer): boolean {
  const isPack = header.toString('latin1', 0, AT.version) === ENVELOPE.magic;
  return isPack && header.readUInt32LE(AT.version) === ENVELOPE.version;
}

/** The extents in the tables of a hot pack that the generation has, by its numbers. */
function extentsIn(tables: Buffer, originCount: number, manifest: Manifest): Set<number> {
  const here = new Map(extentOriginsOf(manifest).map((origin) => [origin.id, origin]));
  const extents = new Set<number>();
  let at = originCount * ORIGIN.bytes;
  for (let index = 0; index < originCount; index++) {
    const origin = tables.subarray(index * ORIGIN.bytes, (index + 1) * ORIGIN.bytes);
    const found = here.get(origin.toString('hex', ORIGIN.id, ORIGIN.idBytes));
    const end = Math.min(at + origin.readUInt32LE(ORIGIN.extentCount) * ENTRY.bytes, tables.length);
    for (; at < end; at += ENTRY.bytes)
      if (found !== undefined) extents.add(found.firstExtent + tables.readUInt32LE(at + ENTRY.number));
  }
  return extents;
}

/** @returns false when the set is too large for a pack */
function writePack(fd: number, reader: CheckpointReader, extents: ReadonlySet<number>): boolean {
  const origins = extentOriginsOf(reader.manifest).filter((origin) =>
    [...extents].some((extent) => isOf(origin, extent)),
  );
  const entries: Entry[] = [];
  let offset = HEADER_BYTES + origins.length * ORIGIN.bytes + extents.size * ENTRY.bytes;
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
  const tables = tablesOf(origins, entries);
  const header = headerOf(ENVELOPE, { size: entries.length, tie: BigInt(origins.length), body: tables });
  writeAt(fd, Buffer.concat([header, tables]), 0);
  return true;
}

function isOf({ firstExtent, extentCount }: ExtentOrigin, extent: number): boolean {
  return extent >= firstExtent && extent < firstExtent + extentCount;
}

/** The files that extents come from, and then those of each of them. */
function tablesOf(origins: readonly ExtentOrigin[], entries: readonly Entry[]): Buffer {
  const ascending = [...entries].sort((a, b) => a.extent - b.extent);
  const originTable = Buffer.alloc(origins.length * ORIGIN.bytes);
  const rows: Buffer[] = [];
  for (const [index, origin] of origins.entries()) {
    const own = ascending.filter(({ extent }) => isOf(origin, extent));
    originTable.write(origin.id, index * ORIGIN.bytes + ORIGIN.id, 'hex');
    originTable.writeUInt32LE(own.length, index * ORIGIN.bytes + ORIGIN.extentCount);
    for (const { extent, storedBytes, offset } of own) {
      const row = Buffer.alloc(ENTRY.bytes);
      row.writeUInt32LE(extent - origin.firstExtent, ENTRY.number);
      row.writeUInt32LE(storedBytes, ENTRY.storedBytes);
      row.writeBigUInt64LE(BigInt(offset), ENTRY.offset);
      rows.push(row);
    }
  }
  return Buffer.concat([originTable, ...rows]);
}
