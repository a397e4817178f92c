/**
 * What tells of a disk's file whether it was written to in between: its size, and the time of its last write as stat(2) has
 * it. A copy that keeps the time is the same disk; inode and device are not compared, because backups change both.
 */
import { statSync } from 'node:fs';
import * as v from 'valibot';
import { natural } from './schema.js';

const MAX_FILES = 65536;
const MAX_PATH = 128 * 1024;

export const diskFileSchema = v.object({
  /** As QEMU finds it, from the root folder on. */
  path: v.pipe(v.string(), v.maxLength(MAX_PATH)),
  sizeBytes: natural,
  /** Since 1970; too much for a number in JSON. */
  mtimeNs: v.pipe(v.string(), v.regex(/^-?\d{1,20}$/)),
});
export const diskFilesSchema = v.pipe(v.array(diskFileSchema), v.maxLength(MAX_FILES));
export type DiskFile = v.InferOutput<typeof diskFileSchema>;

/**
 * Undefined for what is not there, and for a block device: its node has the time at which udev last touched it.
 * @param root the folder that is QEMU's root folder
 */
export function lookAtDiskFile(path: string, root = ''): DiskFile | undefined {
  try {
    const found = statSync(`${root}${path}`, { bigint: true });
    if (!found.isFile()) return undefined;
    return { path, sizeBytes: Number(found.size), mtimeNs: String(found.mtimeNs) };
  } catch {
    return undefined;
  }
}

export function isUntouched(then: DiskFile, now: DiskFile): boolean {
  return then.sizeBytes === now.sizeBytes && then.mtimeNs === now.mtimeNs;
}

/** When it was last written to, to the microsecond: `2026-11-30 12:56:20.123456 UTC`. */
export function lastWriteOf({ mtimeNs }: Pick<DiskFile, 'mtimeNs'>): string {
  const us = BigInt(mtimeNs) / 1000n;
  const iso = new Date(Number(us / 1000n)).toISOString();
  const rest = String(us % 1000n).padStart(3, '0');
  return `${iso.slice(0, -1).replace('T', ' ')}${rest} UTC`;
}
