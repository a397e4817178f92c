/**
 * The devices of a stopped VM, as xen-save-devices-state writes them: into a file of ours that QEMU gets as an open
 * descriptor, so that it needs no right to write anywhere.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { FILE_MODE, writeFailure } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import type { QmpClient } from '../qemu/qmp.js';
import { integer } from '../util/schema.js';

/** Marks our sets of descriptors in QEMU, and names the file. */
const DESCRIPTORS = 'vmckpt-hold';
/** More than any device state of a machine without memory of its own takes. */
const PROBE_BYTES = 2 ** 22;

const FdSets = v.array(
  v.object({ 'fdset-id': integer, fds: v.array(v.object({ opaque: v.optional(v.string()) })) }),
);

const AddedFd = v.object({ 'fdset-id': integer });

/** Where the devices of a stopped VM are written to: made ready before it stops. */
export class DeviceCapture {
  readonly #qmp: QmpClient;
  readonly #file: string;
  readonly #fd: number;
  #set: number | undefined;

  private constructor(qmp: QmpClient, folder: string) {
    this.#qmp = qmp;
    this.#file = path.join(folder, DESCRIPTORS);
    this.#fd = createFile(this.#file);
  }

  /** In `folder`, which QEMU need not be able to reach. @throws VmckptError NO_SPACE, FAILED, QMP_COMMAND_FAILED */
  static async prepare(qmp: QmpClient, folder: string): Promise<DeviceCapture> {
    const capture = new DeviceCapture(qmp, folder);
    try {
      const added = await qmp.query(AddedFd, 'add-fd', { opaque: DESCRIPTORS }, { fd: capture.#fd });
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

  /** QEMU's own descriptor goes with removeDescriptors(); version 7.2 closes it when the VM runs, until then it holds no more. */
  close(): void {
    ftruncateSync(this.#fd);
    closeSync(this.#fd);
    rmSync(this.#file);
  }
}

/** QEMU wants a descriptor for writing only, and of a file: it cuts it to length 0. @throws VmckptError NO_SPACE, FAILED */
function createFile(file: string): number {
  try {
    // A save that was killed has left its own.
    rmSync(file, { force: true });
    return openSync(file, 'wx', FILE_MODE);
  } catch (error) {
    throw writeFailure(error, file);
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

/** Takes the descriptors of all captures from QEMU, also of those that were cut off. */
export async function removeDescriptors(qmp: QmpClient): Promise<void> {
  for (const { 'fdset-id': id, fds } of await qmp.query(FdSets, 'query-fdsets'))
    if (fds.some(({ opaque }) => opaque === DESCRIPTORS))
      await ignoringRefusal(qmp.execute('remove-fd', { 'fdset-id': id }));
}

/** There was nothing to take away. */
export async function ignoringRefusal(answer: Promise<unknown>): Promise<void> {
  try {
    await answer;
  } catch (error) {
    if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') throw error;
  }
}
