/**
 * Asks QEMU itself: starts one without a machine, and switches on what vmckpt needs. QEMU refuses what the host does
 * not permit, so the answer is right wherever permissions come from.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { findQemuBinary, launchQemu, readLogTail } from '../qemu/launch.js';
import { applyMigrationSettings, readMigrationSettings } from '../qemu/migration-control.js';
import type { QmpClient } from '../qemu/qmp.js';
import type { Finding } from './finding.js';
import { asRoot } from '../util/rights.js';

const START_TIMEOUT_MS = 15_000;
const QUIT_TIMEOUT_MS = 2_000;

interface Need {
  readonly check: string;
  readonly title: string;
  readonly capability: string;
  /** A capability that must be on before this one. */
  readonly needs?: string;
  readonly meaning: string;
  /** The first version of QEMU that has it. */
  readonly since: string;
}

const NEEDS: readonly Need[] = [
  {
    check: 'live-save',
    title: 'Saving a VM while it runs',
    capability: 'background-snapshot',
    meaning: 'A running VM is saved by pre-copy or, where that is not safe, paused while it is saved.',
    since: '6.0',
  },
  {
    check: 'lazy-restore',
    title: 'Restoring with memory on demand',
    capability: 'postcopy-ram',
    meaning: 'A restored VM runs when all of its memory is there (--mode eager), and learn does not work.',
    since: '2.6',
  },
  {
    check: 'preempt',
    title: 'A channel of its own for demanded pages',
    capability: 'postcopy-preempt',
    needs: 'postcopy-ram',
    meaning: 'Pages on demand wait behind pages in the background.',
    since: '7.1',
  },
];

/** @param chosen the binary that the user named. @throws the signal's reason */
export async function examineQemu(chosen: string | undefined, signal: AbortSignal): Promise<Finding[]> {
  const check = { check: 'qemu', title: 'QEMU' };
  const directory = mkdtempSync(path.join(os.tmpdir(), 'vmckpt-doctor-'));
  try {
    const binary = findQemuBinary({ chosen });
    const { logPath, qmp } = await startWithoutMachine(binary, directory, signal);
    try {
      const version: Finding = { ...check, status: 'ok', found: `${qmp.version.text} at ${binary}` };
      const findings = [version];
      for (const need of NEEDS) findings.push(await examineNeed(need, qmp, logPath));
      return findings;
    } finally {
      await qmp.execute('quit', {}, { timeoutMs: QUIT_TIMEOUT_MS }).catch(() => undefined);
      await qmp.close();
    }
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof VmckptError)) throw error;
    const meaning = 'vmckpt can save running VMs, but cannot restore any.';
    return [{ ...check, status: 'fail', found: error.message, meaning, remedy: error.hint }];
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function startWithoutMachine(
  binary: string,
  directory: string,
  signal: AbortSignal,
): Promise<{ qmp: QmpClient; logPath: string }> {
  const qmpSocket = path.join(directory, 'qmp.sock');
  const logPath = path.join(directory, 'qemu.log');
  const monitor = `unix:${qmpSocket.replaceAll(',', ',,')},server=on,wait=off`;
  // QEMU checks whether post-copy is permitted only while it waits for a migration.
  const args = [
    '-machine',
    'none',
    '-nodefaults',
    '-display',
    'none',
    '-S',
    '-incoming',
    'defer',
    '-qmp',
    monitor,
  ];
  const { qmp } = await launchQemu({ binary, args, qmpSocket, logPath, signal, timeoutMs: START_TIMEOUT_MS });
  return { qmp, logPath };
}

async function examineNeed(need: Need, qmp: QmpClient, logPath: string): Promise<Finding> {
  const { check, title, capability, meaning, since } = need;
  // There is a slower alternative.
  const status = 'warn';
  const { capabilities } = await readMigrationSettings(qmp);
  if (!(capability in capabilities)) {
    const remedy = `Install QEMU ${since} or later.`;
    return { check, title, status, found: `this QEMU knows no ${capability}`, meaning, remedy };
  }
  const wanted = need.needs === undefined ? [capability] : [need.needs, capability];
  try {
    await applyMigrationSettings(qmp, { capabilities: setAll(wanted, true) });
    // Some of them exclude each other.
    await applyMigrationSettings(qmp, { capabilities: setAll(wanted, false) });
  } catch (error) {
    if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') throw error;
    const words = readLogTail(logPath).split('\n').at(-1) ?? '';
    const found = `${error.message}${words === '' ? '' : ` (${words})`}`;
    const remedy = `sysctl -w vm.unprivileged_userfaultfd=1   (or: ${asRoot('run QEMU and vmckpt', 'CAP_SYS_PTRACE')})`;
    return { check, title, status, found, meaning, remedy };
  }
  return { check, title, status: 'ok', found: `QEMU grants ${capability}` };
}

function setAll(names: readonly string[], state: boolean): Record<string, boolean> {
  return Object.fromEntries(names.map((name) => [name, state]));
}
