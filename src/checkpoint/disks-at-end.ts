/**
 * QEMU writes to some images when it closes them (lazy_refcounts, dirty bitmaps of their own), which is after a save with --quit
 * is complete. What they are like then lies beside the generation: the guest has written nothing in between.
 */
import path from 'node:path';
import { diskFilesSchema, isUntouched, type DiskFile } from '../util/disk-files.js';
import { readJsonFile } from '../util/json-file.js';
import { fsyncPath, writeNewFile } from './files.js';
import type { Hints } from './hints.js';
import type { Manifest } from './manifest.js';

export const DISKS_AT_END_FILE = 'disks-at-end.json';

/** To be called when QEMU has ended. @throws VmckptError as writeNewFile() */
export async function noteDisksAtEnd(
  dir: string,
  { then, now }: { readonly then: readonly DiskFile[]; readonly now: readonly DiskFile[] },
): Promise<void> {
  const isClosed = now.length === then.length && now.every((file, index) => isUntouched(then[index]!, file));
  if (isClosed) return;
  await writeNewFile(path.join(dir, DISKS_AT_END_FILE), Buffer.from(`${JSON.stringify(now)}\n`));
  await fsyncPath(dir);
}

/** As the VM left them; none where that is not known. */
export function diskFilesOf(manifest: Manifest, hints: Hints): readonly DiskFile[] {
  return readJsonFile(diskFilesSchema, hints.find(DISKS_AT_END_FILE)) ?? manifest.diskFiles ?? [];
}
