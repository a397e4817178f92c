/**
 * Deletes what no generation needs. Generations that were removed lately count, because some may still be read; so does
 * whatever is younger than a grace period. Pushes and pruning exclude each other: either takes its lease first and looks for
 * that of the other one then.
 */
import { decodeManifest } from '../../checkpoint/manifest.js';
import type { DeletedFiles } from '../contracts.js';
import type { Bucket, FoundObject } from './bucket.js';
import { inTurns } from './in-turns.js';
import {
  CHECKPOINTS,
  PACKS,
  PRUNING,
  REMOVED,
  WRITING,
  filesOf,
  packKey,
  parseFileKey,
  parseManifestKey,
  parseRemovedKey,
  type Numbered,
} from './keys.js';
import { Lease, refuseFresh } from './lease.js';

/** @throws VmckptError STORE_LOCKED while generations are written or another one prunes; MANIFEST_DAMAGED */
export async function pruneBucket(bucket: Bucket, graceMs: number): Promise<DeletedFiles> {
  const lease = await Lease.take(bucket, PRUNING, `${bucket.label} is being pruned`);
  try {
    for (const object of await bucket.list(WRITING)) {
      const generation = object.key.split('/')[1];
      await refuseFresh(bucket, [object], `${generation} is being written`);
    }
    const beforeMs = bucket.nowMs - graceMs;
    const unneeded = await findUnneeded(bucket, beforeMs);
    await inTurns(unneeded, async ({ key }) => {
      lease.requireHeld();
      await bucket.delete(key);
    });
    const uploads = await bucket.uploads('');
    await inTurns(
      uploads.filter(({ begunMs }) => begunMs < beforeMs),
      async (upload) => {
        lease.requireHeld();
        await bucket.abandonUpload(upload);
      },
    );
    return {
      packs: unneeded.filter(({ key }) => key.startsWith(PACKS)).length,
      bytes: unneeded.reduce((sum, { bytes }) => sum + bytes, 0),
    };
  } finally {
    await lease.release();
  }
}

/** Those that were written before `beforeMs`; manifests of removed generations after what they stand for. */
async function findUnneeded(bucket: Bucket, beforeMs: number): Promise<FoundObject[]> {
  const [files, packs, removed] = await Promise.all(
    [CHECKPOINTS, PACKS, REMOVED].map((prefix) => bucket.list(prefix)),
  );
  const isOld = ({ modifiedMs }: FoundObject) => modifiedMs < beforeMs;
  const manifests = files!.filter(({ key }) => parseManifestKey(key) !== undefined);
  const [current, recent] = await Promise.all([
    readNeeds(bucket, manifests),
    readNeeds(
      bucket,
      removed!.filter((object) => !isOld(object)),
    ),
  ]);
  const needed = new Set([...current, ...recent]);
  const isNeeded = ({ key }: FoundObject) => {
    const generation = parseFileKey(key);
    return needed.has(generation === undefined ? key : filesOf(generation));
  };
  const others = files!.filter(({ key }) => parseFileKey(key) !== undefined);
  return [...packs!, ...others]
    .filter((object) => isOld(object) && !isNeeded(object))
    .concat(removed!.filter(isOld));
}

/** The keys of the packs, and of the folders of files, of the generations with these manifests. */
async function readNeeds(bucket: Bucket, manifests: readonly FoundObject[]): Promise<string[]> {
  const needs = await inTurns(manifests, async ({ key }) => {
    const found = await bucket.read(key);
    if (found === undefined) return [];
    const manifest = decodeManifest(found, key);
    const generation: Numbered = parseManifestKey(key) ?? parseRemovedKey(key)!;
    const packs = manifest.formatVersion === 1 ? [] : manifest.packs.map(({ id }) => packKey(id));
    return [...packs, filesOf({ ...generation, id: manifest.id })];
  });
  return needs.flat();
}
