/** Saves and restores the test guest through the library, and proves that a restored guest is whole. */
import path from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { restore } from '../../src/restore/restore.js';
import type { RestoreReport } from '../../src/restore/report.js';
import type { RestoreOptions } from '../../src/restore/attempt.js';
import { save, type SaveOptions, type SaveReport } from '../../src/save/save.js';
import { qemuBinary } from './cache.js';
import { Console, type Heartbeat } from './console.js';
import type { Guest } from './guest.js';
import { killAndWait, killAtExit, killProcessesOf } from './processes.js';

const silent = { onProgress: () => undefined, onMessage: () => undefined };

const live = new Set<Restored>();

export interface Restored {
  readonly report: RestoreReport;
  readonly pid: number;
  readonly console: Console;
  stop(): Promise<void>;
}

/** A store and a runtime folder of the suite's own, below `dir`; also for the processes that it starts, which end with it. */
export function useOwnFolders(dir: string): string {
  beforeAll(() => {
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
  });
  afterAll(() => killProcessesOf(path.join(dir, 'run')));
  return path.join(dir, 'store');
}

export function saveGuest(
  guest: Pick<Guest, 'qmpSocket'>,
  options: Pick<SaveOptions, 'storeDir' | 'name'> & Partial<SaveOptions>,
): Promise<SaveReport> {
  return save({
    vm: `qmp:${guest.qmpSocket}`,
    method: 'background-snapshot',
    quit: false,
    level: 1,
    disksExternal: false,
    signal: new AbortController().signal,
    ...silent,
    ...options,
  });
}

/** Eagerly, and with a word of trust, unless the options have it otherwise. */
export function restoreSilently(
  options: Pick<RestoreOptions, 'storeDir' | 'reference'> & Partial<RestoreOptions>,
): Promise<RestoreReport> {
  return restore({
    mode: 'eager',
    path: 'auto',
    prefetch: { budgetMs: 20, explore: 0 },
    detach: false,
    run: false,
    qemuBinary: undefined,
    qemuArgs: undefined,
    trustCommandLine: true,
    signal: new AbortController().signal,
    ...silent,
    ...options,
  });
}

/** The guest's console keeps a log on the host, which an untrusted command line may not. */
export async function restoreGuest(
  guest: Pick<Guest, 'consoleSocket'>,
  {
    qemu,
    ...options
  }: Pick<RestoreOptions, 'storeDir' | 'reference'> & Partial<RestoreOptions> & { qemu: string },
): Promise<Restored> {
  const report = await restoreSilently({ mode: 'lazy', qemuBinary: qemuBinary(qemu), ...options });
  const pid = report.qemuPid!;
  killAtExit(pid);
  const movedTo = report.moved.find(({ from }) => from === guest.consoleSocket)?.to;
  const console = await Console.connect(movedTo ?? guest.consoleSocket);
  const restored: Restored = {
    report,
    pid,
    console,
    stop: async () => {
      console.close();
      await killAndWait(pid);
      live.delete(restored);
    },
  };
  live.add(restored);
  return restored;
}

/** Ends every VM that was restored and not yet stopped; for afterEach. */
export async function stopRestored(): Promise<void> {
  for (const restored of live) await restored.stop();
}

/** The guest's own findings after a restore: all of its memory, its disk, its tmpfs, and a counter that went on. */
export async function examineGuest(console: Console, before: Heartbeat | undefined) {
  const heartbeat = await console.nextHeartbeat();
  const { ok, bad } = await console.verify();
  return {
    memory: ok && bad === 0,
    disk: await console.diskIntact(),
    tmpfs: await console.tmpfsIntact(),
    counter: before === undefined || (heartbeat.n >= before.n && heartbeat.n < before.n + 600),
  };
}
