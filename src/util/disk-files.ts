/**
 * Detects whether a disk's file was written to: by its size and the time of its last write from stat(2). A copy that
 * keeps that time counts as the same disk. Inode and device are not compared, because backups change both.
 */
import { statSync } from 'node:fs';
import * as v from 'valibot';
import { natural } from './schema.js';

const MAX_FILES = 65536;
const MAX_PATH = 128 * 1024;

export const diskFileSchema = v.object({
  /** The absolute path, as QEMU sees it. */
  path: v.pipe(v.string(), v.maxLength(MAX_PATH)),
  sizeBytes: natural,
  /** Since 1970. A string, because it is too large for a number in JSON. */
  mtimeNs: v.pipe(v.string(), v.regex(/^-?\d{1,20}$/)),
});
export const diskFilesSchema = v.pipe(v.array(diskFileSchema), v.maxLength(MAX_FILES));
export type DiskFile = v.InferOutput<typeof diskFileSchema>;

/**
 * Undefined for a missing file, and for a block device: the time of its node is when udev last touched it.
 * @param root QEMU's root folder
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

/** The time of the last write, to the microsecond: `2026-11-30 12:56:20.123456 UTC`. */
export function lastWriteOf({ mtimeNs }: Pick<DiskFile, 'mtimeNs'>): string {
  const us = BigInt(mtimeNs) / 1000n;
  const iso = new Date(Number(us / 1000n)).toISOString();
  const rest = String(us % 1000n).padStart(3, '0');
  return `${iso.slice(0, -1).replace('T', ' ')}${rest} UTC`;
}
