/**
 * Images that another process writes to. QEMU locks bytes of an image for that: the one at 100 + n for a permission that
 * it has, where 1 is to write. A QEMU that is about to be loaded asks for its images only when the VM is to run: too late
 * for a restore to hear of it.
 */
import { readFileSync, statSync, type BigIntStats } from 'node:fs';
import path from 'node:path';

const WRITES_AT = 101;

/** Whether some image may be written to by several at once, or is not locked at all: QEMU's own affair then. */
export function sharesImages(args: readonly string[]): boolean {
  return args.some((arg) => /\b(share-rw\W+(on|true)|locking\W+off)\b/.test(arg));
}

/** Those of `files` that somebody writes to, as they were given; none where the kernel does not tell. */
export function imagesWrittenTo(files: readonly string[], cwd: string): string[] {
  const written = inodesLockedAt(WRITES_AT);
  return files.filter((file) => {
    const place = placeOf(path.resolve(cwd, file));
    return place !== undefined && written.has(place);
  });
}

/** Of /proc/locks, proc_locks(5): `1: OFDLCK ADVISORY READ -1 fe:00:4711 101 101`. */
function inodesLockedAt(byte: number): Set<string> {
  let text: string;
  try {
    text = readFileSync('/proc/locks', 'latin1');
  } catch {
    return new Set();
  }
  const locks = text.matchAll(/ OFDLCK .* ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)$/gm);
  const places = Array.from(locks, ([, major, minor, inode, from, to]) => {
    const covers = Number(from) <= byte && (to === 'EOF' || Number(to) >= byte);
    return covers ? `${Number.parseInt(major!, 16)}:${Number.parseInt(minor!, 16)}:${inode}` : undefined;
  });
  return new Set(places.filter((place) => place !== undefined));
}

/** Undefined for what is no file (`nbd:…`, `json:{…}`), or may not be looked at. Numbers as glibc's gnu_dev_major() takes them apart. */
function placeOf(file: string): string | undefined {
  let found: BigIntStats;
  try {
    found = statSync(file, { bigint: true });
  } catch {
    return undefined;
  }
  const { dev, ino } = found;
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  return `${major}:${minor}:${ino}`;
}
