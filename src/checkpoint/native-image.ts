/** A generation as the native fault path reads it, beside the CheckpointReader that has checked its headers. */
import { closeSync } from 'node:fs';
import path from 'node:path';
import { DAMAGE_HINT, VmckptError } from '../errors.js';
import { CheckpointImage, type ImageArrival, type ImageOptions } from '../native/index.js';
import { openRegular } from '../util/regular-file.js';
import { errnoOf } from './files.js';
import {
  FORMAT1_FILES,
  GENERATION_FILES,
  HEADER_BYTES,
  HOT_PACK_FILE,
  RECORD_CHUNKS,
  chunkCountOf,
  packFile,
  packParts,
} from './format.js';
import { extentOriginsOf, fileBytesOf, generationLabel, openFailure, type Manifest } from './manifest.js';

/**
 * @param arrival of a generation that is still arriving
 * @throws VmckptError INDEX_DAMAGED, EXTENT_DAMAGED, FILE_MISSING, NOT_A_FILE, NOT_PERMITTED
 */
export function openNativeImage(dir: string, manifest: Manifest, arrival?: ImageArrival): CheckpointImage {
  const names = Object.keys(fileBytesOf(manifest)).filter((name) => name !== GENERATION_FILES.deviceState);
  const fds = new Map<string, number>();
  try {
    for (const name of names) fds.set(name, openRegular(path.join(dir, name)));
    const hotPackFd = openHotPack(dir);
    if (hotPackFd !== undefined) fds.set(HOT_PACK_FILE, hotPackFd);
    return new CheckpointImage({
      ...filesOf(manifest, fds),
      hotPackFd,
      arrival,
      pageCount: manifest.sizes.ramBytes / manifest.ram.pageBytes,
      extentPages: manifest.pages.extentPages,
      pageIndexRoot: rootOf(manifest.checksums.pageIndexRoot),
      label: generationLabel(dir),
    });
  } catch (error) {
    throw damageIn(error) ?? openFailure(error, generationLabel(dir), 'its files');
  } finally {
    for (const fd of fds.values()) closeSync(fd);
  }
}

type Files = Pick<ImageOptions, 'formatVersion' | 'pageTableFd' | 'extentFiles'>;

function filesOf(manifest: Manifest, fds: ReadonlyMap<string, number>): Files {
  if (manifest.formatVersion === 2) {
    const extentFiles = manifest.packs.map((pack) => {
      const { recordsOffset, recordTableOffset, chunksOffset } = packParts(pack);
      const { place, id, extentCount, chunkCount } = pack;
      const name = packFile(pack.id);
      const fd = fds.get(name)!;
      return {
        ...{ place, name, id, extentsFd: fd, recordsFd: fd, recordsOffset, recordTableOffset, chunksOffset },
        ...{ extentCount, chunkCount, recordsRoot: rootOf(pack.recordsRoot) },
      };
    });
    return { formatVersion: 2, pageTableFd: fds.get(GENERATION_FILES.pageChunks)!, extentFiles };
  }
  const { extentCount } = manifest.pages;
  const chunksBytes = chunkCountOf(RECORD_CHUNKS, extentCount) * RECORD_CHUNKS.chunkBytes;
  const extentFile = {
    ...{ place: 0, name: FORMAT1_FILES.pages, extentCount, chunkCount: 0, chunksOffset: 0 },
    id: extentOriginsOf(manifest)[0]!.id,
    extentsFd: fds.get(FORMAT1_FILES.pages)!,
    recordsFd: fds.get(FORMAT1_FILES.extentIndex)!,
    recordsOffset: HEADER_BYTES,
    recordTableOffset: HEADER_BYTES + chunksBytes,
    recordsRoot: rootOf(manifest.checksums.extentIndexRoot),
  };
  return { formatVersion: 1, pageTableFd: fds.get(FORMAT1_FILES.pageIndex)!, extentFiles: [extentFile] };
}

function rootOf(digits: string): bigint {
  return BigInt(`0x${digits}`);
}

/** Undefined where there is none, or none to be had: it is not needed. */
function openHotPack(dir: string): number | undefined {
  try {
    return openRegular(path.join(dir, HOT_PACK_FILE));
  } catch (error) {
    if (!(error instanceof VmckptError) && errnoOf(error) === undefined) throw error;
    return undefined;
  }
}

/** What an error of the native image says of the generation; undefined when it is about something else. */
export function damageIn(error: unknown): VmckptError | undefined {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code !== 'EXTENT_DAMAGED' && code !== 'INDEX_DAMAGED') return undefined;
  return damageOf(code, message);
}

/** What native code has found damaged. */
export function damageOf(code: 'EXTENT_DAMAGED' | 'INDEX_DAMAGED', message: string): VmckptError {
  return new VmckptError(code, message, {
    hint: DAMAGE_HINT,
  });
}
