/** What QEMU does by itself, measured as vmckpt measures itself: the baseline of every comparison. */
import { existsSync, renameSync, rmSync } from 'node:fs';
import { applyMigrationSettings } from '../src/qemu/migration-control.js';
import { launchQemu } from '../src/qemu/launch.js';
import { QmpClient } from '../src/qemu/qmp.js';
import { runWhenLoaded } from '../src/restore/incoming.js';
import { CAPABILITIES_OF, runMethod, type SaveMethod } from '../src/save/methods.js';
import { nowMs, roundMs } from '../src/timeline/clock.js';
import { poll } from '../src/util/deadline.js';
import { Console } from '../test/support/console.js';
import type { Guest } from '../test/support/guest.js';
import { killAndWait, killAtExit } from '../test/support/processes.js';

const TIMEOUT_MS = 600_000;
const UNLIMITED_BANDWIDTH = 2 ** 40;

export interface StockSave {
  /** From the first command until the file is on the disk. */
  readonly totalMs: number;
  readonly pauseMs: number;
}

/** Writes QEMU's own stream, uncompressed and fsynced, to `file`. A stopped guest is left as QEMU leaves it: paused. */
export async function stockSave(guest: Guest, method: SaveMethod, file: string): Promise<StockSave> {
  const qmp = await QmpClient.connect({ path: guest.qmpSocket });
  try {
    const capabilities = Object.fromEntries(CAPABILITIES_OF[method].map((name) => [name, true]));
    const partial = `${file}.part`;
    const written = `${file}.written`;
    rmSync(written, { force: true });
    const startMs = nowMs();
    const former = await applyMigrationSettings(qmp, {
      capabilities,
      parameters: { 'max-bandwidth': UNLIMITED_BANDWIDTH },
    });
    const uri = `exec:cat > '${partial}' && sync '${partial}' && mv '${partial}' '${written}'`;
    const { pauseMs } = await runMethod(method, { qmp, uri, wasRunning: true });
    await poll(() => existsSync(written) || undefined, {
      what: `${written} to be written`,
      timeoutMs: TIMEOUT_MS,
      everyMs: 2,
    });
    const totalMs = roundMs(nowMs() - startMs);
    renameSync(written, file);
    await applyMigrationSettings(qmp, former);
    return { totalMs, pauseMs };
  } finally {
    await qmp.close();
  }
}

export interface StockRestore {
  /** QEMU's spawn → its RESUME event. */
  readonly resumeMs: number;
  /** QEMU's spawn → the first heartbeat on the console. */
  readonly firstHeartbeatMs: number;
}

/** QEMU's own full restore of a stream that `stockSave` has written; the guest is ended again. */
export async function stockRestore(guest: Guest, file: string): Promise<StockRestore> {
  const [binary, ...args] = guest.argv;
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const beat = Console.connect(guest.consoleSocket, TIMEOUT_MS).then(async (console) => {
    const { atMs } = await console.nextHeartbeat(TIMEOUT_MS);
    console.close();
    return performance.timeOrigin + atMs;
  });
  beat.catch(() => undefined); // awaited below, unless QEMU fails first
  const qemu = await launchQemu({
    binary: binary!,
    args: [...args, '-incoming', `exec:cat '${file}'`],
    logPath: guest.qemuLog,
    qmpSocket: guest.qmpSocket,
    signal,
  });
  killAtExit(qemu.pid);
  try {
    const resumedAtMs = await runWhenLoaded(qemu.qmp, true, signal);
    return {
      resumeMs: roundMs(resumedAtMs! - qemu.spawnedAtMs),
      firstHeartbeatMs: roundMs((await beat) - qemu.spawnedAtMs),
    };
  } finally {
    await qemu.qmp.close();
    await killAndWait(qemu.pid);
  }
}
