/** File systems of other kinds than the tests' own, each in a file, for as long as a test lasts. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

export interface FileSystemKind {
  readonly name: string;
  readonly make: readonly [string, ...string[]];
  readonly mount: readonly [string, ...string[]];
  readonly bytes: number;
}

/** Has reflinks, and no hard links between subvolumes. */
export const BTRFS: FileSystemKind = {
  name: 'btrfs',
  make: ['mkfs.btrfs', '-q'],
  mount: ['mount', '-o', 'loop', '-t', 'btrfs'],
  bytes: 256 << 20,
};
/** The device is given back when the file system is unmounted. */
const MOUNT_EXFAT =
  'l=$(losetup -f --show "$0") && { mount.exfat-fuse "$l" "$1"; r=$?; losetup -d "$l"; exit $r; }';
/** Has neither. By FUSE, because not every kernel has a driver for it. */
export const EXFAT: FileSystemKind = {
  name: 'exfat',
  make: ['mkfs.exfat'],
  mount: ['sh', '-c', MOUNT_EXFAT],
  bytes: 128 << 20,
};

export interface Mount {
  readonly dir: string;
  readonly unmount: () => void;
}

/** @throws Error that says why not */
export function mountNew({ make, mount, bytes }: FileSystemKind): Mount {
  const place = mkdtempSync(path.join(tmpdir(), 'vmckpt-mount-'));
  const [image, dir] = [path.join(place, 'image'), path.join(place, 'mounted')];
  try {
    mkdirSync(dir);
    writeFileSync(image, '');
    truncateSync(image, bytes);
    for (const [program, ...args] of [
      [...make, image],
      [...mount, image, dir],
    ] as [string, ...string[]][])
      execFileSync(program, args, { stdio: 'pipe' });
  } catch (error) {
    rmSync(place, { recursive: true });
    throw error;
  }
  return {
    dir,
    unmount: () => {
      execFileSync('umount', [dir]);
      rmSync(place, { recursive: true });
    },
  };
}

/** Why a file system cannot be mounted here; undefined if it can. */
export function mountProblem(kind: FileSystemKind): string | undefined {
  try {
    mountNew(kind).unmount();
    return undefined;
  } catch (error) {
    return (error instanceof Error ? error.message : String(error)).trim().split('\n').slice(0, 2).join(': ');
  }
}
