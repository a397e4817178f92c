/** Paused QEMUs without a guest, started by a script of bash: saved and restored through the library. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { afterEach } from 'vitest';
import type { RestoreReport } from '../../src/restore/report.js';
import type { RestoreOptions } from '../../src/restore/attempt.js';
import { save, type SaveOptions, type SaveReport } from '../../src/save/save.js';
import { connectWhenReady, QEMU, TINY } from '../integration/qemu-helper.js';
import { restoreSilently } from './checkpointing.js';
import { killAndWait, killAtExit } from './processes.js';

const BIOS = '/usr/share/seabios/bios-256k.bin';

export interface TinyVm {
  readonly dir: string;
  readonly pid: number;
  readonly qmpSocket: string;
}

export interface TinyOptions {
  /** "$@" is QEMU with what every such VM has, $DIR its folder, $BIOS a firmware. */
  readonly script: string;
  readonly dir: string;
  /** As the command line has the monitor's socket; in its folder by default. */
  readonly qmp?: string;
}

const living = new Set<number>();

/** Ends those that a test has left; for each suite. */
export function endTinyVms(): void {
  afterEach(async () => {
    for (const pid of living) await killAndWait(pid);
    living.clear();
  });
}

export async function startTinyVm({
  script,
  dir,
  qmp: name = path.join(dir, 'qmp.sock'),
}: TinyOptions): Promise<TinyVm> {
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

export async function endTinyVm({ pid }: Pick<TinyVm, 'pid'>): Promise<void> {
  await killAndWait(pid);
  living.delete(pid);
}

/** Into a store in its folder. */
export function saveTinyVm(
  { dir, qmpSocket }: TinyVm,
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
  { dir }: Pick<TinyVm, 'dir'>,
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
