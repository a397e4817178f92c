/** Tiny real QEMUs for tests of src/qemu: each dies with its test file. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { VmckptError } from '../../src/errors.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { until } from '../support/until.js';

export const QEMU = 'qemu-system-x86_64';
export const TINY = ['-machine', 'q35', '-m', '64', '-accel', 'tcg', '-display', 'none', '-nodefaults'];

export function temporaryDirectory(): { directory: string; remove: () => void } {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'vmckpt-test-'));
  return { directory, remove: () => rmSync(directory, { recursive: true, force: true }) };
}

export function startQemu(args: readonly string[], cwd?: string): ChildProcess {
  return spawn(QEMU, args, { stdio: 'ignore', cwd });
}

export async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

/** Connects as soon as the socket is there. */
export function connectWhenReady(socket: string, oob = true): Promise<QmpClient> {
  const ask = async (): Promise<QmpClient | undefined> => {
    try {
      return await QmpClient.connect({ path: socket, oob });
    } catch (error) {
      if (error instanceof VmckptError && error.code === 'QMP_UNREACHABLE') return undefined;
      throw error;
    }
  };
  return until(socket, ask);
}

/** Until the guest has written the word at a physical address. */
export async function untilWritten(qmp: QmpClient, address: number): Promise<void> {
  const line = `xp /1wx ${address}`;
  await until(line, async () => {
    const text = (await qmp.execute('human-monitor-command', { 'command-line': line })) as string;
    return !text.includes('0x00000000');
  });
}

/** Where the firmware keeps the time of day, once it has set up its memory and the clock. */
export const FIRMWARE_CLOCK = 0x46c;
