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
import { closeSync, ftruncateSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { FILE_MODE, writeFailure } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { readAvailable } from '../native/index.js';
import type { QmpClient } from '../qemu/qmp.js';
import { poll } from '../util/deadline.js';
import { integer } from '../util/schema.js';

/** Of the disk, of its bitmap, and of the set of descriptors that the devices are written to. */
const HOLD = 'vmckpt-hold';
/** What is pending is counted in granules: far more than QEMU's threshold at any bandwidth, in a bitmap of 8 MiB. */
const HOLD_BYTES = 2 ** 42;
const GRANULE_BYTES = 2 ** 16;
const DRAIN_BYTES = 2 ** 16;
const CANCEL_TIMEOUT_MS = 30_000;
/** More than any device state of a machine without memory of its own takes. */
const PROBE_BYTES = 2 ** 22;

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

const FdSets = v.array(
  v.object({ 'fdset-id': integer, fds: v.array(v.object({ opaque: v.optional(v.string()) })) }),
);

/** Takes away what is left of a hold, also of one that was cut off; the migration has ended. */
export async function release(qmp: QmpClient): Promise<void> {
  await ignoringRefusal(qmp.execute('blockdev-del', { 'node-name': HOLD }));
  for (const { 'fdset-id': id, fds } of await qmp.query(FdSets, 'query-fdsets'))
    if (fds.some(({ opaque }) => opaque === HOLD))
      await ignoringRefusal(qmp.execute('remove-fd', { 'fdset-id': id }));
}

const AddedFd = v.object({ 'fdset-id': integer });

/** Where the devices of a stopped VM are written to: made ready before it stops. */
export class DeviceCapture {
  readonly #qmp: QmpClient;
  readonly #file: string;
  readonly #fd: number;
  #set: number | undefined;

  private constructor(qmp: QmpClient, folder: string) {
    this.#qmp = qmp;
    this.#file = path.join(folder, HOLD);
    // A save that was killed has left its own.
    rmSync(this.#file, { force: true });
    // QEMU wants a descriptor for writing only, and of a file: it cuts it to length 0.
    this.#fd = openSync(this.#file, 'wx', FILE_MODE);
  }

  /** In `folder`, which QEMU need not be able to reach. @throws VmckptError NO_SPACE, QMP_COMMAND_FAILED */
  static async prepare(qmp: QmpClient, folder: string): Promise<DeviceCapture> {
    const capture = new DeviceCapture(qmp, folder);
    try {
      const added = await qmp.query(AddedFd, 'add-fd', { opaque: HOLD }, { fd: capture.#fd });
      capture.#set = added['fdset-id'];
      return capture;
    } catch (error) {
      capture.close();
      throw error;
    }
  }

  /** As xen-save-devices-state writes them. @throws VmckptError NO_SPACE, QMP_COMMAND_FAILED */
  async take(): Promise<Buffer> {
    try {
      const filename = `/dev/fdset/${this.#set}`;
      await this.#qmp.execute('xen-save-devices-state', { filename, live: false });
      return readFileSync(this.#file);
    } catch (error) {
      refuseFullDisk(this.#fd, this.#file);
      throw error;
    }
  }

  /** QEMU's own descriptor goes with release(); version 7.2 closes it when the VM runs, until then it holds no more. */
  close(): void {
    ftruncateSync(this.#fd);
    closeSync(this.#fd);
    rmSync(this.#file);
  }
}

/** QEMU does not say why it could not write. @throws VmckptError NO_SPACE, FAILED */
function refuseFullDisk(fd: number, file: string): void {
  try {
    writeSync(fd, Buffer.alloc(PROBE_BYTES));
  } catch (error) {
    throw writeFailure(error, file);
  }
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

/** There was nothing to take away. */
async function ignoringRefusal(answer: Promise<unknown>): Promise<void> {
  try {
    await answer;
  } catch (error) {
    if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') throw error;
  }
}
