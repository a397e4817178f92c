/** Stock QEMU's own full restore, with the first heartbeat of its guest. */
import { stockLoad } from '../src/bench/stock.js';
import { roundMs } from '../src/timeline/clock.js';
import { Console } from '../test/support/console.js';
import type { Guest } from '../test/support/guest.js';
import { killAndWait } from '../test/support/processes.js';

const TIMEOUT_MS = 600_000;

export interface StockRestore {
  /** QEMU's spawn → its RESUME event. */
  readonly resumeMs: number;
  /** QEMU's spawn → the first heartbeat on the console. */
  readonly firstHeartbeatMs: number;
}

/** Restores a stream that `stockSave` has written; the guest is ended again. */
export async function stockRestore(guest: Guest, file: string): Promise<StockRestore> {
  const beat = Console.connect(guest.consoleSocket, TIMEOUT_MS).then(async (console) => {
    const { atMs } = await console.nextHeartbeat(TIMEOUT_MS);
    console.close();
    return performance.timeOrigin + atMs;
  });
  beat.catch(() => undefined); // awaited below, unless QEMU fails first
  const { qemu, resumedAtMs } = await stockLoad({
    argv: guest.argv,
    qmpSocket: guest.qmpSocket,
    logPath: guest.qemuLog,
    uri: `exec:cat '${file}'`,
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  try {
    return {
      resumeMs: roundMs(resumedAtMs - qemu.spawnedAtMs),
      firstHeartbeatMs: roundMs((await beat) - qemu.spawnedAtMs),
    };
  } finally {
    await killAndWait(qemu.pid);
  }
}
