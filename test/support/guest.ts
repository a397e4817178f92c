/** The test guest from where fixtures/guest/build.sh has left it, in one of the QEMUs that there are to test with. */
import * as bench from '../../src/bench/guest.js';
import { guestFile, qemuBinary, type QemuChoice } from './cache.js';
import { startReadyGuest } from './ready-guest.js';
import { freePort } from './workloads.js';

export type { Guest } from '../../src/bench/guest.js';

export interface GuestOptions extends Omit<bench.GuestOptions, 'binary' | 'files' | 'ports' | 'incoming'> {
  /** Which QEMU, or the path of one; the distribution's own by default. */
  readonly qemu?: QemuChoice | (string & {});
  /** All memory in one backend, "mem", that is like this: `memory-backend-memfd,share=on`. */
  readonly backend?: string;
}

const ORDINARY = ['dir', 'qemu', 'ramMb', 'fillMb', 'backend'];

/** A guest for tests. The kinds that many of them want are not booted each time: ready-guest.ts. */
export async function startGuest(options: GuestOptions): Promise<bench.Guest> {
  if (!isOrdinary(options)) return bootGuest(options);
  // What memory is made of does not show in a stream.
  const likeness = options.backend === undefined ? options : { ...options, backend: 'memory-backend-ram' };
  return startReadyGuest(await complete(options), await complete(likeness));
}

export async function bootGuest(options: GuestOptions): Promise<bench.Guest> {
  return bench.startGuest(await complete(options));
}

async function complete({ qemu = 'system', backend, ...options }: GuestOptions): Promise<bench.GuestOptions> {
  const { ramMb = 256, extraArgs = [] } = options;
  const memory = {
    machine: 'q35,memory-backend=mem',
    extraArgs: ['-object', `${backend},id=mem,size=${ramMb}M`, ...extraArgs],
  };
  return {
    ...options,
    ...(backend !== undefined && memory),
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
