/** A guest that runs, whose clients have something to ask for, and whose verifier idles. */
import { existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { writeFailure } from '../interchange/files.js';
import { QmpClient, type QemuVersion } from '../qemu/qmp.js';
import { withDeadline } from '../util/deadline.js';
import {
  defaultFillMb,
  READY_TIMEOUT_MS,
  startGuest,
  type Guest,
  type GuestFiles,
  type GuestOptions,
} from './guest.js';
import { loadMemcached, type MemcachedLoad } from './workloads.js';

const VALUE_BYTES = 4000;
/** 40 MB, or 10 where there is little room. */
const KEY_COUNTS = { large: 10_000, small: 2_500, largeFromMib: 1024 } as const;

export interface PreparedGuest {
  readonly guest: Guest;
  readonly version: QemuVersion;
}

export async function prepareGuest({
  ramMib,
  signal,
  ...options
}: Omit<GuestOptions, 'ramMb' | 'fillMb'> & {
  readonly ramMib: number;
  readonly signal: AbortSignal;
}): Promise<PreparedGuest> {
  const guest = await startGuest({ ...options, ramMb: ramMib, fillMb: defaultFillMb(ramMib) });
  try {
    await withDeadline(guest.waitReady(), { what: 'the guest to boot', timeoutMs: READY_TIMEOUT_MS, signal });
    await loadMemcached({ port: guest.ports.memcached, ...valuesFor(ramMib) });
    await guest.console.idle();
    return { guest, version: await versionOf(guest) };
  } catch (error) {
    await guest.stop();
    throw error;
  }
}

/** What its memcached holds. */
export function valuesFor(ramMib: number): Omit<MemcachedLoad, 'port'> {
  const { large, small, largeFromMib } = KEY_COUNTS;
  return { keyCount: ramMib >= largeFromMib ? large : small, valueBytes: VALUE_BYTES };
}

async function versionOf({ qmpSocket }: Guest): Promise<QemuVersion> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  await qmp.close();
  return qmp.version;
}

/** The guest's files in a folder, as fixtures/guest/build.sh makes them. @throws VmckptError FILE_UNREADABLE */
export function guestFilesIn(dir: string): GuestFiles {
  const files = {
    kernel: path.join(dir, 'vmlinuz'),
    initrd: path.join(dir, 'initramfs.cpio'),
    disk: path.join(dir, 'disk.img'),
  };
  const missing = Object.values(files).find((file) => !existsSync(file));
  if (missing === undefined) return files;
  throw new VmckptError('FILE_UNREADABLE', `the guest to measure with is not there: ${missing}`, {
    hint: "It is not part of the package. In a checkout of vmckpt's repository scripts/setup.sh builds it in .cache/guest; name that folder with --guest.",
  });
}

/** @throws VmckptError HOST_FILE_MISSING, NOT_PERMITTED, NO_SPACE */
export function makeFolder(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true });
  } catch (error) {
    throw writeFailure(error, dir);
  }
}
