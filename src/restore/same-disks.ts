/** A VM must get its own disks back: one with another size or format under the same name is another disk. */
import type { Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { inspectDisks, type Disk } from '../qemu/inspect.js';
import type { QmpClient } from '../qemu/qmp.js';
import type { Restored } from './settings.js';

type SavedDisk = Manifest['blockDevices'][number];

/** The files of the VM's disks. With another command line, nothing is known about them. */
export function imagesOf({ manifest: { blockDevices }, options }: Restored): string[] {
  return options.qemuArgs === undefined ? blockDevices.flatMap(({ file }) => file ?? []) : [];
}

/** Called before the VM runs. @throws VmckptError QEMU_INCOMPATIBLE that names each disk, expected against actual */
export async function requireSameDisks(
  qmp: QmpClient,
  { manifest: { blockDevices }, options }: Restored,
): Promise<void> {
  if (options.qemuArgs !== undefined || blockDevices.length === 0) return;
  const disks = await inspectDisks(qmp);
  const differences = blockDevices.flatMap((saved) => difference(saved, disks));
  if (differences.length === 0) return;
  throw new VmckptError(
    'QEMU_INCOMPATIBLE',
    `these are not the disks that the VM had: ${differences.join('; ')}`,
    {
      hint: 'Put them back as they were when this generation was saved, or give a command line of your own: vmckpt restore NAME -- QEMU ARGS…',
    },
  );
}

/** A clone writes to an overlay of QEMU's own. A disk whose file name is spelled differently is not compared. */
function difference({ file, format, sizeBytes }: SavedDisk, disks: readonly Disk[]): string[] {
  if (file === undefined || sizeBytes === undefined) return [];
  const same = disks.find((disk) => disk.file === file);
  const found = same ?? disks.find(({ backingFile }) => backingFile === file);
  if (found === undefined) return [];
  const isSameFormat = same === undefined || same.format === format;
  if (found.sizeBytes === sizeBytes && isSameFormat) return [];
  const actual = `${isSameFormat ? format : found.format} of ${found.sizeBytes} bytes`;
  return [`${file} is ${actual}, expected ${format} of ${sizeBytes} bytes`];
}
