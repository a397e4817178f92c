/**
 * A VM's memory fits its disks only as they were at the save. On a disk that was written to since, the guest would
 * overwrite new data with what it remembers.
 */
import { diskFilesOf } from '../checkpoint/disks-at-end.js';
import { VmckptError } from '../errors.js';
import type { Generation } from '../store/store.js';
import { isUntouched, lastWriteOf, lookAtDiskFile, type DiskFile } from '../util/disk-files.js';

export interface DiskWishes {
  /** A VM with another command line has other disks, about which nothing is known. */
  readonly qemuArgs: readonly string[] | undefined;
  /** The user asserts that the disks are as they were, whatever their files show. */
  readonly disksAsSaved?: boolean | undefined;
}

/** @throws VmckptError DISKS_CHANGED that names each disk with both times */
export function requireUntouchedDisks(generation: Generation, { qemuArgs, disksAsSaved }: DiskWishes): void {
  if (qemuArgs !== undefined || disksAsSaved === true) return;
  const changes = changedDisks(generation);
  if (changes.length === 0) return;
  throw new VmckptError(
    'DISKS_CHANGED',
    `the disks are not as they were when ${generation.reference} was saved: ${changes.join('; ')}`,
    {
      hint: 'Older memory destroys the file system on a newer disk. Start the VM from its disk, without a checkpoint; or put the disks back as they were at the save, and say so: --disks-as-saved.',
    },
  );
}

/** One clause for each disk that was written to since the save. Missing files are reported elsewhere. */
export function changedDisks({ manifest, hints }: Generation): string[] {
  return diskFilesOf(manifest, hints).flatMap((then) => {
    const now = lookAtDiskFile(then.path);
    return now === undefined || isUntouched(then, now) ? [] : [describeChange(then, now)];
  });
}

function describeChange(then: DiskFile, now: DiskFile): string {
  const times = `last written at ${lastWriteOf(now)}, and at ${lastWriteOf(then)} when it was saved`;
  const sizes = `it has ${now.sizeBytes} bytes, and had ${then.sizeBytes}`;
  return `${now.path} was ${times}${now.sizeBytes === then.sizeBytes ? '' : `; ${sizes}`}`;
}
