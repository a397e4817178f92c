/** Measures stock QEMU in the same way as vmckpt. These are the baselines of every comparison. */
import { existsSync, renameSync, rmSync } from 'node:fs';
import os from 'node:os';
import { fsyncPath } from '../checkpoint/files.js';
import { launchQemu, type LaunchedQemu } from '../qemu/launch.js';
import { applyMigrationSettings, type MigrationSettings } from '../qemu/migration-control.js';
import { QmpClient, type QemuVersion } from '../qemu/qmp.js';
import { runWhenLoaded } from '../qemu/incoming.js';
import { UNLIMITED_BANDWIDTH } from '../save/borrowed-settings.js';
import { runLive, untilCompleted, type MethodResult, type StreamMethod } from '../save/methods.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { poll } from '../util/deadline.js';
import type { Guest } from './guest.js';
import { killAndWait, killAtExit } from './processes.js';

const TIMEOUT_MS = 600_000;
const MAPPED_RAM_SINCE = 9;

/** The settings are the same for saving and for loading. */
export const MAPPED_RAM_SETTINGS: MigrationSettings = {
  capabilities: { 'mapped-ram': true, multifd: true },
  parameters: { 'multifd-channels': Math.max(2, os.availableParallelism()) },
};

/** Why this QEMU has no mapped-ram. */
export function mappedRamProblem({ major, text }: QemuVersion): string | undefined {
  return major < MAPPED_RAM_SINCE ? `mapped-ram needs QEMU ${MAPPED_RAM_SINCE}, this is ${text}` : undefined;
}

export interface StockSave {
  /** From the first command until the file is on the disk. */
  readonly totalMs: number;
  readonly pauseMs: number;
}

/** Writes QEMU's own stream, uncompressed and fsynced, to `file`. A stopped guest is left as QEMU leaves it: paused. */
export async function stockSave(guest: Guest, method: StreamMethod, file: string): Promise<StockSave> {
  const partial = `${file}.part`;
  const written = `${file}.written`;
  rmSync(written, { force: true });
  const startMs = nowMs();
  const uri = `exec:cat > '${partial}' && sync '${partial}' && mv '${partial}' '${written}'`;
  const { pauseMs } = await migrateAway(guest, { method, uri });
  await poll(() => existsSync(written) || undefined, {
    what: `${written} to be written`,
    timeoutMs: TIMEOUT_MS,
    everyMs: 2,
  });
  const totalMs = roundMs(nowMs() - startMs);
  renameSync(written, file);
  return { totalMs, pauseMs };
}

/** The same as mapped-ram, through as many channels as MAPPED_RAM_SETTINGS has; QEMU 9 and newer. */
export async function stockMappedRam(guest: Guest, file: string): Promise<StockSave> {
  const startMs = nowMs();
  const migration = { method: 'stopped', uri: `file:${file}`, settings: MAPPED_RAM_SETTINGS } as const;
  const { pauseMs } = await migrateAway(guest, migration);
  await fsyncPath(file);
  return { totalMs: roundMs(nowMs() - startMs), pauseMs };
}

export interface StockMigration {
  readonly method: StreamMethod;
  readonly uri: string;
  /** Beside what the method needs. */
  readonly settings?: MigrationSettings;
}

/** QEMU sends the running guest's state to `uri`; its settings are put back. */
export async function migrateAway(guest: Guest, { method, uri, settings }: StockMigration) {
  const qmp = await QmpClient.connect({ path: guest.qmpSocket });
  try {
    const capabilities = { events: true, 'background-snapshot': method === 'background-snapshot' };
    const former = await applyMigrationSettings(qmp, {
      capabilities: { ...capabilities, ...settings?.capabilities },
      parameters: { 'max-bandwidth': UNLIMITED_BANDWIDTH, ...settings?.parameters },
    });
    const result = method === 'stopped' ? await runStopped(qmp, uri) : await runLive(method, { qmp, uri });
    await applyMigrationSettings(qmp, former);
    return result;
  } finally {
    await qmp.close();
  }
}

async function runStopped(qmp: QmpClient, uri: string): Promise<MethodResult> {
  const startMs = nowMs();
  await qmp.execute('stop');
  await qmp.execute('migrate', { uri });
  const { iterations } = await untilCompleted(qmp);
  return { pauseMs: roundMs(nowMs() - startMs), iterations };
}

export interface StockLoad {
  /** The whole command line, the binary first. */
  readonly argv: readonly string[];
  readonly qmpSocket: string;
  readonly logPath: string;
  /** What `-incoming` names. */
  readonly uri: string;
  readonly settings?: MigrationSettings;
  readonly signal: AbortSignal;
}

/** Starts QEMU and lets it load everything and run; the caller ends it, and so does the end of this process. */
export async function stockLoad({
  argv,
  uri,
  settings,
  signal,
  ...files
}: StockLoad): Promise<{ readonly qemu: LaunchedQemu; readonly resumedAtMs: number }> {
  const [binary, ...args] = argv;
  const incoming = settings === undefined ? uri : 'defer';
  const qemu = await launchQemu({
    ...files,
    binary: binary!,
    args: [...args, '-incoming', incoming],
    signal,
  });
  killAtExit(qemu.pid);
  try {
    if (settings !== undefined) {
      await applyMigrationSettings(qemu.qmp, settings);
      await qemu.qmp.execute('migrate-incoming', { uri });
    }
    const resumedAtMs = await runWhenLoaded(qemu.qmp, { runs: true, signal });
    return { qemu, resumedAtMs: resumedAtMs! };
  } catch (error) {
    await killAndWait(qemu.pid);
    throw error;
  } finally {
    await qemu.qmp.close();
  }
}
