/** A generation as the native fault path reads it, beside the CheckpointReader that has checked its headers. */
import { closeSync } from 'node:fs';
import path from 'node:path';
import { DAMAGE_HINT, VmckptError } from '../errors.js';
import { CheckpointImage } from '../native/index.js';
import { openRegular } from '../util/regular-file.js';
import { errnoOf } from './files.js';
import { GENERATION_FILES, HOT_PACK_FILE } from './format.js';
import { generationLabel, openFailure, type Manifest } from './manifest.js';

/** @throws VmckptError INDEX_DAMAGED, FILE_MISSING, NOT_A_FILE, NOT_PERMITTED */
export function openNativeImage(dir: string, manifest: Manifest): CheckpointImage {
  const { pages, checksums } = manifest;
  const fds: number[] = [];
  try {
    for (const file of ['pageIndex', 'extentIndex', 'pages'] as const)
      fds.push(openRegular(path.join(dir, GENERATION_FILES[file])));
    const [pageIndexFd, extentIndexFd, pagesFd] = fds as [number, number, number];
    const hotPackFd = openHotPack(dir);
    if (hotPackFd !== undefined) fds.push(hotPackFd);
    return new CheckpointImage(
      { pageIndexFd, extentIndexFd, pagesFd, hotPackFd },
      {
        pageCount: manifest.sizes.ramBytes / manifest.ram.pageBytes,
        extentCount: pages.extentCount,
        extentPages: pages.extentPages,
        pageIndexRoot: BigInt(`0x${checksums.pageIndexRoot}`),
        extentIndexRoot: BigInt(`0x${checksums.extentIndexRoot}`),
        label: generationLabel(dir),
      },
    );
  } catch (error) {
    throw damageIn(error) ?? openFailure(error, generationLabel(dir), 'its files');
  } finally {
    for (const fd of fds) closeSync(fd);
  }
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
