/**
 * Processes that must not outlive a measurement or a test: started with a parent-death signal, and killed by PID at the end
 * of this process. PIDs that vmckpt started are added with killAtExit(), or found by the runtime folder that they
 * have inherited in their environment, however deep vmckpt has started them.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { openSync, closeSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import { poll } from '../util/deadline.js';
import { identifyProcess, type ProcessIdentity } from '../util/process-identity.js';
import { killAtOnce, sendSignal, SIGKILL } from '../vms/processes.js';

export type TrackedProcess = ChildProcess & { readonly pid: number };

const SWEEPS = 20;

const tracked: ProcessIdentity[] = [];

process.on('exit', () => {
  for (const each of tracked) sendSignal(each, SIGKILL);
});

/** Registers a process that something else started; a PID that was used again by then is left alone. */
export function killAtExit(pid: number): void {
  const identity = identifyProcess(pid);
  if (identity !== undefined) tracked.push(identity);
}

/** Starts a program that dies with this process, its output in `logFile`. */
export function spawnTracked(command: readonly string[], logFile: string): TrackedProcess {
  const log = openSync(logFile, 'a');
  try {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
      stdio: ['ignore', log, log],
    });
    if (child.pid === undefined) throw new Error('setpriv (package util-linux) cannot be started');
    killAtExit(child.pid);
    return child as TrackedProcess;
  } finally {
    closeSync(log);
  }
}

export function isAlive(pid: number): boolean {
  return identifyProcess(pid) !== undefined;
}

/** Kills `pid` and returns once it is gone. */
export async function killAndWait(pid: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  const target = identifyProcess(pid);
  if (target !== undefined) sendSignal(target, constants.signals[signal]);
  await waitUntilGone(pid);
}

export async function waitUntilGone(pid: number, timeoutMs = 30_000): Promise<void> {
  const gone = (): true | undefined => (isAlive(pid) ? undefined : true);
  await poll(gone, { what: `process ${pid} to end`, timeoutMs, everyMs: 5 });
}

/**
 * The processes, this one not among them, that have this runtime folder in their environment.
 * @param others that are known to be none of them: each costs 50 µs to look at
 */
export function processesOf(
  runtimeDir: string,
  others: ReadonlySet<number> = new Set(),
): { readonly pid: number; readonly program: string }[] {
  const mark = `VMCKPT_RUNTIME_DIR=${runtimeDir}`;
  return runningPids().flatMap((pid) => {
    if (pid === process.pid || others.has(pid)) return [];
    try {
      if (!readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(mark)) return [];
      return [{ pid, program: path.basename(readlinkSync(`/proc/${pid}/exe`)) }];
    } catch {
      return []; // not ours to look into, or gone
    }
  });
}

export function runningPids(): number[] {
  return readdirSync('/proc').map(Number).filter(Number.isInteger);
}

/** A process may start another one while it is killed. The next sweep finds that. */
export function killProcessesOf(runtimeDir: string): void {
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const found = processesOf(runtimeDir);
    if (found.length === 0) return;
    for (const { pid } of found) killAtOnce(pid);
    execFileSync('sleep', ['0.05']);
  }
}
