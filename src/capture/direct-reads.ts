/**
 * Direct I/O of QEMU's disks: data comes into memory that was pinned when the read began, past the page tables, and no
 * write tracking notices. What is not known to copy its data counts as direct.
 */
import { readFileSync, readdirSync, readlinkSync, statfsSync, statSync } from 'node:fs';

/** Of the flags in /proc/PID/fdinfo. */
const [ACCESS_MODE, WRITE_ONLY, DIRECT] = [0o3, 0o1, 0o40000];
/** Others may read without a copy, whatever the flags say: FUSE, 9p and network file systems with caching switched off. */
const COPYING_FILE_SYSTEMS: ReadonlySet<number> = new Set([
  0xef53, // ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0xf2f52010, // f2fs
  0x01021994, // tmpfs
  0x9fa0, // proc
  0x62656572, // sysfs
]);
const COPYING_DEVICES =
  /^\/dev\/(null|zero|u?random|kvm|net\/tun|vhost-net|vhost-vsock|ptmx|pts\/\d+|tty\w*)$/;
/** No data comes through these, but that of the files above. */
const HARMLESS =
  /^(socket:|pipe:|anon_inode:(inotify|\[(event(fd|poll)|signalfd|timerfd|io_uring|userfaultfd|pidfd|kvm-[\w:-]+)\]))/;

/** Whether a read may be under way, or may have been a moment ago, that no write tracking notices. */
export function mayReadDirectly(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => isDirect(pid, fd));
  } catch {
    return true; // not ours to see, or it has just ended
  }
}

function isDirect(pid: number, fd: string): boolean {
  const link = `/proc/${pid}/fd/${fd}`;
  try {
    const target = readlinkSync(link);
    if (HARMLESS.test(target)) return false;
    const flags = flagsOf(pid, fd);
    if ((flags & ACCESS_MODE) === WRITE_ONLY) return false;
    const file = statSync(link);
    if (file.isCharacterDevice()) return !COPYING_DEVICES.test(target);
    if (!file.isFile() || (flags & DIRECT) !== 0) return true;
    return !COPYING_FILE_SYSTEMS.has(statfsSync(link).type);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ENOENT'; // closed, and its reads have ended
  }
}

function flagsOf(pid: number, fd: string): number {
  const text = readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1');
  return Number.parseInt(/^flags:\s*(\d+)/m.exec(text)![1]!, 8);
}
