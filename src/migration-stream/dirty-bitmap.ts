/**
 * Skips the section "dirty-bitmap" of a held migration (src/save/held-migration.ts), whose content is not needed:
 * records of `flags, [u8 length, node], [u8 length, bitmap], [be32 granularity, u8 flags]` and an EOS. Source:
 * streams of QEMU 7.2 and 10.0.
 */
import { hex, malformed } from './bytes.js';

export const DIRTY_BITMAP_SECTION_NAME = 'dirty-bitmap';

const FLAG = { endOfSection: 0x01, bitmapName: 0x04, nodeName: 0x08, start: 0x10 } as const;
const KNOWN_FLAGS = FLAG.bitmapName | FLAG.nodeName | FLAG.start;
const START_BYTES = 5;

export interface DirtyBitmapStep {
  readonly next: number;
  readonly ended: boolean;
}

/** Takes the record that begins at `at`, `offset` in the stream; undefined when bytes are missing. */
export function stepOverDirtyBitmap(
  bytes: Uint8Array,
  at: number,
  offset: number,
): DirtyBitmapStep | undefined {
  if (at === bytes.length) return undefined;
  const flags = bytes[at]!;
  let next = at + 1;
  if (flags === FLAG.endOfSection) return { next, ended: true };
  if ((flags & ~KNOWN_FLAGS) !== 0)
    throw malformed({
      where: 'migration stream',
      offset,
      expected: 'the start or the end of a dirty bitmap',
      actual: `a record with the flags ${hex(flags)}`,
    });
  for (const flag of [FLAG.nodeName, FLAG.bitmapName]) {
    if ((flags & flag) === 0) continue;
    if (next >= bytes.length) return undefined;
    next += 1 + bytes[next]!;
  }
  if ((flags & FLAG.start) !== 0) next += START_BYTES;
  return next > bytes.length ? undefined : { next, ended: false };
}
