/**
 * Tiny QEMUs for tests of saves and restores through the library: `startTinyVm` runs the firmware or a boot sector
 * (boot-sectors.ts), `startScriptedVm` is started by a script of bash, and is paused.
 */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { afterEach, onTestFinished } from 'vitest';
import type { QmpClient } from '../../src/qemu/qmp.js';
import type { RestoreOptions } from '../../src/restore/attempt.js';
import type { RestoreReport } from '../../src/restore/report.js';
import { save, type SaveOptions, type SaveReport } from '../../src/save/save.js';
import {
  connectWhenReady,
  endProcess,
  FIRMWARE_CLOCK,
  QEMU,
  TINY,
  untilWritten,
} from '../integration/qemu-helper.js';
import { qemuBinary, type QemuChoice } from './cache.js';
import { restoreSilently } from './checkpointing.js';
import { killAndWait, killAtExit } from './processes.js';
import { until } from './until.js';

const BIOS = '/usr/share/seabios/bios-256k.bin';

export interface TinyVm {
  readonly pid: number;
  readonly qmpSocket: string;
  /** Each command on a connection of its own: a save needs the monitor for itself. @returns the last answer */
  readonly ask: <T = unknown>(...commands: readonly (string | readonly [string, object])[]) => Promise<T>;
  readonly status: () => Promise<string>;
  readonly untilStatus: (status: string) => Promise<void>;
  /** The guest has written the word at a physical address. */
  readonly untilMemory: (address: number) => Promise<void>;
  /** The firmware is at work, and has filled some memory. */
  readonly untilFirmware: () => Promise<void>;
  readonly end: () => Promise<void>;
  readonly save: (
    options: Pick<SaveOptions, 'storeDir' | 'name'> & Partial<SaveOptions>,
  ) => Promise<SaveReport>;
}

export interface TinyOptions {
  readonly qemu: QemuChoice;
  readonly dir: string;
  readonly args?: readonly string[];
  /** Put before QEMU: `setpriv …`. */
  readonly wrapper?: readonly string[];
}

let count = 0;

/** Ends with the test. */
export function startTinyVm({ qemu, dir, args = [], wrapper = [] }: TinyOptions): TinyVm {
  const qmpSocket = path.join(dir, `tiny-${++count}.sock`);
  const [program, ...argv] = [...wrapper, qemuBinary(qemu), ...TINY, ...args];
  const child = spawn(program!, [...argv, '-qmp', `unix:${qmpSocket},server=on,wait=off`], {
    stdio: 'ignore',
  });
  killAtExit(child.pid!);
  const end = () => endProcess(child);
  onTestFinished(end);
  const connected = async <T>(use: (qmp: QmpClient) => Promise<T>): Promise<T> => {
    const qmp = await connectWhenReady(qmpSocket);
    try {
      return await use(qmp);
    } finally {
      await qmp.close();
    }
  };
  const vm: TinyVm = {
    pid: child.pid!,
    qmpSocket,
    ask: <T>(...commands: readonly (string | readonly [string, object])[]) =>
      connected(async (qmp) => {
        let answer: unknown;
        for (const command of commands)
          answer = typeof command === 'string' ? await qmp.execute(command) : await qmp.execute(...command);
        return answer as T;
      }),
    status: async () => (await vm.ask<{ status: string }>('query-status')).status,
    untilStatus: async (status) => {
      await until(`the state ${status}`, async () => (await vm.status()) === status);
    },
    untilMemory: (address) => connected((qmp) => untilWritten(qmp, address)),
    untilFirmware: () => vm.untilMemory(FIRMWARE_CLOCK),
    end,
    save: (options) => saveTinyVm({ dir, qmpSocket }, options),
  };
  return vm;
}

export interface ScriptedVm {
  readonly dir: string;
  readonly pid: number;
  readonly qmpSocket: string;
}

export interface ScriptedOptions {
  /** "$@" is QEMU with what every such VM has, $DIR its folder, $BIOS a firmware. */
  readonly script: string;
  readonly dir: string;
  /** As the command line has the monitor's socket; in its folder by default. */
  readonly qmp?: string;
}

const living = new Set<number>();

/** Ends those that a test has left; for each suite. */
export function endScriptedVms(): void {
  afterEach(async () => {
    for (const pid of living) await killAndWait(pid);
    living.clear();
  });
}

export async function startScriptedVm({
  script,
  dir,
  qmp: name = path.join(dir, 'qmp.sock'),
}: ScriptedOptions): Promise<ScriptedVm> {
  const qmpSocket = path.resolve(dir, name);
  const qemu = [QEMU, ...TINY, '-qmp', `unix:${name},server=on,wait=off`];
  const child = spawn('bash', ['-c', script, 'bash', ...qemu], {
    cwd: dir,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, DIR: dir, BIOS },
  });
  if (child.pid !== undefined) track(child.pid);
  const qmp = await connectWhenReady(qmpSocket);
  const pid = qmp.peerPid();
  track(pid);
  // A paused VM can be saved without rights.
  await qmp.execute('stop');
  await qmp.close();
  return { dir, pid, qmpSocket };
}

export async function endScriptedVm({ pid }: Pick<ScriptedVm, 'pid'>): Promise<void> {
  await killAndWait(pid);
  living.delete(pid);
}

/** Into a store in its folder, unless the options name another. */
export function saveTinyVm(
  { dir, qmpSocket }: Pick<ScriptedVm, 'dir' | 'qmpSocket'>,
  options: Partial<SaveOptions> = {},
): Promise<SaveReport> {
  return save({
    vm: `qmp:${qmpSocket}`,
    storeDir: path.join(dir, 'store'),
    name: 'web',
    method: 'background-snapshot',
    quit: false,
    level: 1,
    disksExternal: false,
    onProgress: () => undefined,
    onMessage: () => undefined,
    signal: new AbortController().signal,
    ...options,
  });
}

export async function restoreTinyVm(
  { dir }: Pick<ScriptedVm, 'dir'>,
  options: Partial<RestoreOptions> = {},
): Promise<RestoreReport> {
  const report = await restoreSilently({
    storeDir: path.join(dir, 'store'),
    reference: 'web',
    ...options,
  });
  track(report.qemuPid!);
  return report;
}

function track(pid: number): void {
  living.add(pid);
  killAtExit(pid);
}
