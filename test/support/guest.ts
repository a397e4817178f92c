/** The test guest from where fixtures/guest/build.sh has left it, in one of the QEMUs that there are to test with. */
import * as bench from '../../src/bench/guest.js';
import { guestFile, qemuBinary, type QemuChoice } from './cache.js';
import { startReadyGuest } from './ready-guest.js';
import { freePort } from './workloads.js';

export type { Guest } from '../../src/bench/guest.js';

export interface GuestOptions extends Omit<bench.GuestOptions, 'binary' | 'files' | 'ports' | 'incoming'> {
  /** Which QEMU, or the path of one; the distribution's own by default. */
  readonly qemu?: QemuChoice | (string & {});
}

const ORDINARY = ['dir', 'qemu', 'ramMb', 'fillMb'];

/** A guest for tests. The kinds that many of them want are not booted each time: ready-guest.ts. */
export async function startGuest(options: GuestOptions): Promise<bench.Guest> {
  return isOrdinary(options) ? startReadyGuest(await complete(options)) : bootGuest(options);
}

export async function bootGuest(options: GuestOptions): Promise<bench.Guest> {
  return bench.startGuest(await complete(options));
}

async function complete({ qemu = 'system', ...options }: GuestOptions): Promise<bench.GuestOptions> {
  return {
    ...options,
    binary: qemuBinary(qemu),
    files: {
      kernel: guestFile('vmlinuz'),
      initrd: guestFile('initramfs.cpio'),
      disk: guestFile('disk.img'),
    },
    ports: { memcached: await freePort(), http: await freePort() },
  };
}

/** The machine of most tests, in software emulation: only memory and what it is filled with differ. */
function isOrdinary(options: GuestOptions): boolean {
  return Object.keys(options).every((option) => ORDINARY.includes(option));
}
