/**
 * Guests that need not be booted: one of each kind is booted, stopped, and saved by its own QEMU as a plain stream
 * beside the guest's files; all others begin there. vmckpt has no part in it, so no fault of vmckpt can hide in it.
 * A stream belongs to a guest, a QEMU and a machine: the name of its file follows from all three.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, realpathSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import * as v from 'valibot';
import * as bench from '../../src/bench/guest.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { LockFile } from '../../src/store/lock-file.js';
import { poll } from '../../src/util/deadline.js';
import { until } from './until.js';

/** A boot on a machine that has much else to do. */
const MAKE_TIMEOUT_MS = 170_000;
const UNLIMITED = 2 ** 40;
/** What may differ between guests of a kind, and what its own files say better than their names. */
const OF_ONE_RUN = ['dir', 'ports', 'binary', 'files'];

const MigrationInfo = v.object({ status: v.optional(v.string()), 'error-desc': v.optional(v.string()) });
const Status = v.object({ status: v.string() });

/**
 * Begins a guest that runs on where the one in the cache was ready.
 * @param likeness the machine that is booted for it when there is none in the cache, the same to its guest
 */
export async function startReadyGuest(
  options: bench.GuestOptions,
  likeness: bench.GuestOptions,
): Promise<bench.Guest> {
  const stream = await readyStream(likeness);
  const guest = await bench.startGuest({ ...options, incoming: true });
  const loaded = load(guest, stream);
  loaded.catch(() => undefined);
  const waitReady = async () => {
    await loaded;
    await guest.waitReady();
  };
  return { ...guest, waitReady };
}

async function load({ qmpSocket }: bench.Guest, stream: string): Promise<void> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  try {
    await qmp.execute('migrate-incoming', { uri: `exec:cat '${stream}'` });
    const isLoaded = async () => (await qmp.query(Status, 'query-status')).status === 'paused';
    await until(`QEMU to load ${stream}`, isLoaded);
    await qmp.execute('cont');
  } finally {
    await qmp.close();
  }
}

/** The stream of such a guest, which is made when there is none. It goes with the build of the guest that it is of. */
async function readyStream(options: bench.GuestOptions): Promise<string> {
  const folder = path.join(path.dirname(options.files.kernel), 'ready');
  const stream = path.join(folder, `${kindOf(options)}.stream`);
  if (existsSync(stream)) return stream;
  mkdirSync(folder, { recursive: true });
  const lock = await poll(() => LockFile.tryTake(`${stream}.lock`), {
    what: `another process to make ${stream}`,
    timeoutMs: MAKE_TIMEOUT_MS,
    everyMs: 50,
  });
  try {
    if (!existsSync(stream)) await make(options, stream);
  } finally {
    lock.release();
  }
  return stream;
}

function kindOf(options: bench.GuestOptions): string {
  const qemu = realpathSync(options.binary);
  const { size, mtimeMs } = statSync(qemu);
  const { mtimeMs: builtMs } = statSync(options.files.initrd);
  const machine = Object.entries(options).filter(([option]) => !OF_ONE_RUN.includes(option));
  const kind = JSON.stringify([builtMs, qemu, size, mtimeMs, machine.sort()]);
  return createHash('sha256').update(kind).digest('hex').slice(0, 16);
}

/** Stopped first: QEMU before version 10 loses writes of an emulated guest that runs while it is saved. */
async function make(options: bench.GuestOptions, stream: string): Promise<void> {
  const dir = mkdtempSync(path.join(tmpdir(), 'vmckpt-'));
  const guest = await bench.startGuest({ ...options, dir });
  try {
    await guest.waitReady();
    const qmp = await QmpClient.connect({ path: guest.qmpSocket });
    await qmp.execute('stop');
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': UNLIMITED });
    await qmp.execute('migrate', { uri: `exec:cat >'${stream}.part'` });
    await until('the migration', () => isMigrated(qmp));
    await qmp.close();
    renameSync(`${stream}.part`, stream);
  } finally {
    await guest.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}

async function isMigrated(qmp: QmpClient): Promise<boolean> {
  const info = await qmp.query(MigrationInfo, 'query-migrate');
  if (info.status === 'failed') throw new Error(info['error-desc'] ?? 'the migration failed');
  return info.status === 'completed';
}
