/** Boots the test guest from where fixtures/guest/build.sh has left it, in one of the QEMUs that there are to test with. */
import * as bench from '../../src/bench/guest.js';
import { guestFile, qemuBinary, type QemuChoice } from './cache.js';
import { freePort } from './workloads.js';

export type { Guest } from '../../src/bench/guest.js';

export interface GuestOptions extends Omit<bench.GuestOptions, 'binary' | 'files' | 'ports'> {
  /** Which QEMU, or the path of one; the distribution's own by default. */
  readonly qemu?: QemuChoice | (string & {});
}

export async function startGuest({ qemu = 'system', ...options }: GuestOptions): Promise<bench.Guest> {
  return bench.startGuest({
    ...options,
    binary: qemuBinary(qemu),
    files: {
      kernel: guestFile('vmlinuz'),
      initrd: guestFile('initramfs.cpio'),
      disk: guestFile('disk.img'),
    },
    ports: { memcached: await freePort(), http: await freePort() },
  });
}
