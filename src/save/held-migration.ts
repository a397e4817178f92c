/**
 * The memory and the devices of a stopped VM, by a migration that never ends. One that ends leaves the VM in a state
 * (`postmigrate`) from which it can only run, with its disks given up, whatever becomes of the checkpoint; QEMU 7.2
 * does so even when it fails or is cancelled near its end. A held one leaves no trace: it is cancelled when everything
 * is in, and the VM was paused all the time.
 *
 * What holds it is a dirty bitmap of a disk without an image, which QEMU keeps back for post-copy: while that is
 * pending it goes on to iterate, with nothing to send. The devices then come from xen-save-devices-state, which is
 * what Xen's toolstack migrates with. Both seen on QEMU 7.2 and 10.0.
 */
import { ignoringRefusal, removeDescriptors } from '../capture/device-capture.js';
import { readAvailable } from '../native/index.js';
import type { QmpClient } from '../qemu/qmp.js';
import { poll } from '../util/deadline.js';

/** Of the disk, and of its bitmap. */
const HOLD = 'vmckpt-hold';
/** What is pending is counted in granules: far more than QEMU's threshold at any bandwidth, in a bitmap of 8 MiB. */
const HOLD_BYTES = 2 ** 42;
const GRANULE_BYTES = 2 ** 16;
const DRAIN_BYTES = 2 ** 16;
const CANCEL_TIMEOUT_MS = 30_000;

/** Of migrate parameters that are set as long as it holds: no bandwidth may make the threshold exceed the bitmap. */
export const HELD_PARAMETERS = {
  'downtime-limit': 1,
  'block-bitmap-mapping': [{ 'node-name': HOLD, alias: HOLD, bitmaps: [{ name: HOLD, alias: HOLD }] }],
} as const;

/** To be undone by `release`, whatever happens. */
export async function hold(qmp: QmpClient): Promise<void> {
  await release(qmp);
  await qmp.execute('blockdev-add', { driver: 'null-co', 'node-name': HOLD, size: HOLD_BYTES });
  const bitmap = { node: HOLD, name: HOLD, granularity: GRANULE_BYTES, disabled: true };
  await qmp.execute('block-dirty-bitmap-add', bitmap);
}

/** Takes away what is left of a hold, also of one that was cut off; the migration has ended. */
export async function release(qmp: QmpClient): Promise<void> {
  await ignoringRefusal(qmp.execute('blockdev-del', { 'node-name': HOLD }));
  await removeDescriptors(qmp);
}

/** Ends the migration; what it still sends is dropped, so that QEMU has nothing to complain of. */
export async function letGo(
  qmp: QmpClient,
  { stream, signal }: { readonly stream: number; readonly signal: AbortSignal },
): Promise<void> {
  await qmp.execute('migrate_cancel');
  const dropped = Buffer.allocUnsafe(DRAIN_BYTES);
  const read = () => {
    signal.throwIfAborted();
    return readAvailable(stream, dropped);
  };
  await poll(
    () => {
      let bytesRead = read();
      while (bytesRead !== undefined && bytesRead > 0) bytesRead = read();
      return bytesRead === 0 || undefined;
    },
    { what: 'the held migration to be cancelled', timeoutMs: CANCEL_TIMEOUT_MS, everyMs: 1 },
  );
}
