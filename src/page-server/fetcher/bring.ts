/**
 * Makes a generation from elsewhere one of the cache that can be opened: its small files, its packs with all but their
 * extents. What a generation before has in common with it is here already.
 */
import fs from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { DIRECTORY_MODE, FILE_MODE, writeFailure } from '../../checkpoint/files.js';
import { GENERATION_FILES, HOT_PACK_FILE, RECORD_CHUNKS, packFile } from '../../checkpoint/format.js';
import { decodeManifest, readEncodedManifest, type Format2Manifest } from '../../checkpoint/manifest.js';
import { openPageFiles } from '../../checkpoint/page-files.js';
import { CheckpointReader } from '../../checkpoint/reader.js';
import { VmckptError } from '../../errors.js';
import { isName, parseGeneration, requireName } from '../../store/reference.js';
import { packKey, storeKey } from '../cache-layout.js';
import type { ArrivingPack } from '../cache/arriving-pack.js';
import type { Cache } from '../cache/cache.js';
import { SMALL_FILES, type OpenedGeneration } from '../contracts.js';

const { entriesPerChunk: RECORDS_PER_CHUNK } = RECORD_CHUNKS;

export interface CachedGeneration {
  readonly key: string;
  readonly name: string;
  readonly number: number;
  /** What of it was fetched for that, apart from packs. */
  readonly smallBytes: number;
  readonly manifest: Format2Manifest;
  /** Where it will be, or is. */
  readonly dir: string;
  /** Where it is until publish(). */
  readonly placeDir: string;
  /** Those that are not whole. */
  readonly arriving: readonly ArrivingPack[];
}

/** @throws VmckptError MANIFEST_DAMAGED; FORMAT_UNSUPPORTED, also for format 1 */
export function decodeFormat2(encoded: Buffer, label: string): Format2Manifest {
  const manifest = decodeManifest(encoded, label);
  if (manifest.formatVersion === 2) return manifest;
  throw new VmckptError('FORMAT_UNSUPPORTED', `${label} has format 1, which has no packs`, {
    hint: 'Save the VM again where it is, or copy the folder of the generation.',
  });
}

/**
 * Finds the generation in the cache, or begins it there.
 * @param seeds whole packs of another store on this host, by packKey()
 * @throws VmckptError SOURCE_UNAVAILABLE, NO_SPACE, BAD_NAME, and as decodeFormat2()
 */
export async function place(
  cache: Cache,
  encoded: Buffer,
  source: OpenedGeneration,
  seeds: ReadonlyMap<string, string>,
): Promise<CachedGeneration> {
  const { name, number } = source;
  requireName(name, 'a checkpoint');
  if (parseGeneration(String(number)) === undefined)
    throw new VmckptError('SOURCE_MALFORMED', `${number} is no number of a generation of ${name}`);
  const manifest = decodeFormat2(encoded, `${name}@${number}`);
  const found = findCached(cache, { key: storeKey(manifest.id, encoded), name, number, manifest, encoded });
  if (found !== undefined) return found;
  return begin(cache, { encoded, manifest, source, seeds });
}

interface Known {
  readonly encoded: Buffer;
  readonly key: string;
  readonly name: string;
  readonly number: number;
  readonly manifest: Format2Manifest;
}

/** By its folder. @returns undefined if there is none in this cache, or its manifest is damaged */
export function knownGeneration(cache: Cache, dir: string): Known | undefined {
  const [key, name, number, ...more] = path.relative(cache.pathOf('stores'), dir).split(path.sep);
  if (key === undefined || name === undefined || number === undefined || more.length > 0) return undefined;
  if (!isName(name) || parseGeneration(number) === undefined) return undefined;
  try {
    const { encoded, manifest } = readEncodedManifest(dir);
    const isSame = manifest.formatVersion === 2 && storeKey(manifest.id, encoded) === key;
    return isSame ? { key, name, number: Number(number), manifest, encoded } : undefined;
  } catch (error) {
    if (error instanceof VmckptError) return undefined;
    throw error;
  }
}

/** @returns undefined if it is not there */
export function findCached(cache: Cache, known: Known): CachedGeneration | undefined {
  const dir = path.join(cache.storeDir(known.key), known.name, String(known.number));
  if (!fs.existsSync(dir)) return undefined;
  const arriving = known.manifest.packs.flatMap((pack) => cache.arriving(pack) ?? []);
  return { ...known, dir, placeDir: dir, arriving, smallBytes: 0 };
}

interface Beginning {
  readonly encoded: Buffer;
  readonly manifest: Format2Manifest;
  readonly source: OpenedGeneration;
  readonly seeds: ReadonlyMap<string, string>;
}

async function begin(
  cache: Cache,
  { encoded, manifest, source, seeds }: Beginning,
): Promise<CachedGeneration> {
  const { name, number } = source;
  const key = storeKey(manifest.id, encoded);
  const nameDir = path.join(cache.storeDir(key), name);
  const placeDir = path.join(nameDir, `.tmp-${number}-${process.pid}`);
  try {
    await rm(placeDir, { recursive: true, force: true });
    cache.use(key); // making room leaves it alone
    await mkdir(placeDir, { recursive: true, mode: DIRECTORY_MODE });
    const arriving: ArrivingPack[] = [];
    for (const pack of manifest.packs) {
      const placed = await cache.place(
        pack,
        path.join(placeDir, packFile(pack.id)),
        seeds.get(packKey(pack)),
      );
      if (placed !== undefined) arriving.push(placed);
    }
    await cache.makeRoom();
    const smallBytes = await fetchSmallFiles(source, placeDir);
    return {
      key,
      name,
      number,
      manifest,
      dir: path.join(nameDir, String(number)),
      placeDir,
      arriving,
      smallBytes,
    };
  } catch (error) {
    await rm(cache.storeDir(key), { recursive: true, force: true });
    await cache.sweep();
    throw writeFailure(error, cache.dir);
  } finally {
    await cache.leave(key);
  }
}

/** Not the hot pack, which has copies of extents. @returns their bytes */
async function fetchSmallFiles(source: OpenedGeneration, dir: string): Promise<number> {
  const files = SMALL_FILES.filter((file) => file !== HOT_PACK_FILE && source.files.has(file));
  const fetched = files.map(async (file) => {
    const bytes = file === GENERATION_FILES.manifest ? source.manifest : await source.readFile(file);
    // A hint may go in the meantime.
    if (bytes !== undefined) await fs.promises.writeFile(path.join(dir, file), bytes, { mode: FILE_MODE });
    return bytes?.length ?? 0;
  });
  return (await Promise.all(fetched)).reduce((sum, bytes) => sum + bytes, 0);
}

/** Verifies everything that is here from the beginning. @throws VmckptError of kind `damaged` */
export async function verifyBeginning({ placeDir, manifest }: CachedGeneration): Promise<void> {
  const reader = CheckpointReader.of(placeDir, manifest);
  try {
    await reader.deviceState();
  } finally {
    reader.close();
  }
  const files = openPageFiles(placeDir, manifest);
  try {
    const pageCount = manifest.sizes.ramBytes / manifest.ram.pageBytes;
    for (let page = 0; page < pageCount; page += files.pagesPerChunk) files.pages.chunkOf(page);
    for (const { records, extentCount } of files.extentFiles)
      for (let extent = 0; extent < extentCount; extent += RECORDS_PER_CHUNK) records.chunkOf(extent);
  } finally {
    files.close();
  }
}

/** Shows it to readers. */
export async function publish({ dir, placeDir }: CachedGeneration): Promise<void> {
  if (placeDir !== dir) await rename(placeDir, dir);
}
