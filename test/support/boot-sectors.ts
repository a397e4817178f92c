/** Disks whose boot sector does one thing, for VMs without another guest. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';

/** Machine code by what it does. */
const PROGRAMS = {
  /** `mov dx,0x604; mov ax,0x2400; out dx,ax`: the ACPI state S3 of q35. */
  sleep: 'ba0406b80024ef',
  /** S5. */
  powerOff: 'ba0406b80020ef',
  /** `mov dx,0x505; mov al,1; out dx,al`: tells the device pvpanic. */
  panic: 'ba0505b001ee',
  /**
   * In protected mode: rewrites 44 MiB from 16 MiB on, for ever, each word by
   * `imul eax,eax,1664525; add eax,1013904223; mov [edi],eax; add edi,4`. It never halts, and hardly compresses.
   */
  rewrite:
    'fa31c08ed8660f0116477c0f20c00c010f22c066ea1b7c0000080066b810008ed88ec0b878563412bf00000001b90000b00069c00d661900055ff36e3c8907' +
    '83c7044975edebe11700507c00008d76000000000000000000ffff0000009acf00ffff00000092cf00',
  /**
   * Writes a sector in the middle of its disk, for which a qcow2 image has no place yet: `xor ax,ax; mov es,ax;
   * mov ax,0x2000; mov ds,ax; mov bx,0x7c00; mov cx,0x102; mov dx,0x80; mov ax,0x301; int 0x13; inc word [0]`, which is
   * the word at WRITE_COUNT.
   */
  writeOnce: '31c08ec0b800208ed8bb007cb90201ba8000b80103cd13ff060000',
  /** The same for ever: `jmp` to the write. */
  writeOn: '31c08ec0b800208ed8bb007cb90201ba8000b80103cd13ff060000ebf5',
  /**
   * Reads page n % PAGES_READ of its disk, behind the first 64 sectors, to page n % PAGES_READ_TO from READ_TO on, for
   * n = 0, 1, … for ever: function 0x42 of int 0x13. The word at READ_COUNT is n. Only the disk writes to these pages.
   */
  readOn:
    '31c08ed866c70600061000080066c7060c0600000000c7060406000066c70600070000000066a1000789c383e33fc1e30881c30030891e06066625ff030000' +
    '66c1e0036683c04066a30806be0006b442b280cd1366ff060007ebca',
} as const;
/** How often those that write have done so. */
export const WRITE_COUNT = 0x20000;
export const READ_TO = 0x30000;
export const READ_COUNT = 0x700;
export const PAGES_READ_TO = 64;
export const PAGES_READ = 1024;
/** Where its pages begin. */
export const READ_FROM = 64 * 512;
const HALT = 'f4ebfd';

/** Arguments of a disk whose boot sector does it. */
export function bootSector(dir: string, does: keyof typeof PROGRAMS): string[] {
  return ['-drive', `if=virtio,file=${bootImage(dir, does)},format=raw,readonly=on`];
}

/** A raw image. */
export function bootImage(dir: string, does: keyof typeof PROGRAMS): string {
  const image = Buffer.alloc(2 ** 20);
  image.write(PROGRAMS[does] + HALT, 'hex');
  image.writeUInt16LE(0xaa55, 510);
  const file = path.join(dir, `${does}.img`);
  writeFileSync(file, image);
  return file;
}
