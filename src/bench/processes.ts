/**
 * Processes that must not outlive a measurement or a test: started with a parent-death signal, and killed by PID at the end
 * of this process. PIDs that vmckpt started are added with killAtExit(), or found by the runtime folder that they
 * have inherited in their environment, however deep vmckpt has started them.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { openSync, closeSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { poll } from '../util/deadline.js';

interface Tracked {
  readonly pid: number;
  readonly startTime: string;
}

export type TrackedProcess = ChildProcess & { readonly pid: number };

const SWEEPS = 20;

const tracked: Tracked[] = [];

process.on('exit', () => {
  for (const { pid, startTime } of tracked) {
    if (startTimeOf(pid) === startTime) process.kill(pid, 'SIGKILL');
  }
});

/** Registers a process that something else started; a PID that was used again by then is left alone. */
export function killAtExit(pid: number): void {
  const startTime = startTimeOf(pid);
  if (startTime !== undefined) tracked.push({ pid, startTime });
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
  return startTimeOf(pid) !== undefined;
}

/** Kills `pid` and returns once it is gone. */
export async function killAndWait(pid: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  if (isAlive(pid)) process.kill(pid, signal);
  await waitUntilGone(pid);
}

export async function waitUntilGone(pid: number, timeoutMs = 30_000): Promise<void> {
  const gone = (): true | undefined => (isAlive(pid) ? undefined : true);
  await poll(gone, { what: `process ${pid} to end`, timeoutMs, everyMs: 5 });
}

/** The processes, this one not among them, that have this runtime folder in their environment. */
export function processesOf(runtimeDir: string): { readonly pid: number; readonly program: string }[] {
  const mark = `VMCKPT_RUNTIME_DIR=${runtimeDir}`;
  return readdirSync('/proc').flatMap((entry) => {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) return [];
    try {
      if (!readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(mark)) return [];
      return [{ pid, program: path.basename(readlinkSync(`/proc/${pid}/exe`)) }];
    } catch {
      return []; // not ours to look into, or gone
    }
  });
}

/** A process that is starting another while it is killed has its child found by the next sweep. */
export function killProcessesOf(runtimeDir: string): void {
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const found = processesOf(runtimeDir);
    if (found.length === 0) return;
    for (const { pid } of found) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
    execFileSync('sleep', ['0.05']);
  }
}

/**
 * When the process began (a PID and this name one process), or undefined when it is gone. A zombie is gone
 * only with its last thread: until then it holds its sockets and ports.
 */
function startTimeOf(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state, threadCount, startTime] = [fields[0], Number(fields[17]), fields[19]];
  return state === 'Z' && threadCount <= 1 ? undefined : startTime;
}
