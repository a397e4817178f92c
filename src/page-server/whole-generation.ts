/** The last step before a generation from elsewhere is one of a store: all of it is here, and as its manifest says. */
import fs from 'node:fs';
import path from 'node:path';
import { checkCheckpoint } from '../checkpoint/check.js';
import { linkOrCopy } from '../checkpoint/files.js';
import { GENERATION_FILES, packFile } from '../checkpoint/format.js';
import { MAX_MANIFEST_BYTES, decodeManifest, generationLabel } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { readRegular } from '../util/regular-file.js';
import type { PackPlaces } from './pack-places.js';

/**
 * Gives the folder the packs of its manifest that the store has.
 * @returns the ids of those that were there already
 * @throws VmckptError NO_PACK; MANIFEST_DAMAGED and others of decodeManifest(); NO_SPACE
 */
export async function completePacks(dir: string, places: PackPlaces): Promise<string[]> {
  const encoded = readRegular(path.join(dir, GENERATION_FILES.manifest), MAX_MANIFEST_BYTES);
  const manifest = decodeManifest(encoded ?? Buffer.alloc(0), generationLabel(dir));
  if (manifest.formatVersion === 1) return [];
  const arrived: string[] = [];
  for (const pack of manifest.packs) {
    const file = path.join(dir, packFile(pack.id));
    if (fs.existsSync(file)) {
      arrived.push(pack.id);
      continue;
    }
    const existing = await places.find(pack);
    if (existing === undefined) throw new VmckptError('NO_PACK', `${packFile(pack.id)} has not arrived`);
    await linkOrCopy(existing, file);
  }
  return arrived;
}

/**
 * Verifies every checksum, of extents only in these files.
 * @throws VmckptError with the code of the first problem; the signal's reason
 */
export async function requireWhole(
  dir: string,
  extentFiles: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  const { problems } = await checkCheckpoint(dir, {
    only: new Set(extentFiles),
    ...(signal !== undefined && { signal }),
  });
  const [first] = problems;
  if (first !== undefined)
    throw new VmckptError(first.code, `what has arrived is damaged: ${first.message}`, {
      hint: 'vmckpt check shows whether its source is damaged, too. Try again.',
    });
}
