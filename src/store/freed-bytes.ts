/** What the removal of a generation gives back: generations may share files, through hard links. */
import { lstat, readdir } from 'node:fs/promises';
import path from 'node:path';

const BLOCK_BYTES = 512;

/**
 * The bytes on the disk of those files in a folder whose last link goes with it.
 * @param goneLinks links that are taken for gone already, by file; those of this folder are added
 */
export async function freedBytes(dir: string, goneLinks = new Map<string, number>()): Promise<number> {
  let freed = 0;
  for (const entry of await readdir(dir, { recursive: true })) {
    const found = await lstat(path.join(dir, entry));
    if (found.isDirectory()) continue;
    const file = `${found.dev}:${found.ino}`;
    const gone = (goneLinks.get(file) ?? 0) + 1;
    goneLinks.set(file, gone);
    if (gone === found.nlink) freed += found.blocks * BLOCK_BYTES;
  }
  return freed;
}
