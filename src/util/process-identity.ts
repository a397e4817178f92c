/** Process ids are reused. Together with its start time, a process id identifies one process forever. */
import { readdirSync, readFileSync } from 'node:fs';
import { poll } from './deadline.js';

export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)). */
  readonly startTicks: number;
}

/**
 * @returns undefined for no process, or a zombie; a zombie whose threads still live counts, it still holds its
 * sockets
 */
export function identifyProcess(pid: number): ProcessIdentity | undefined {
  return readStat(pid)?.identity;
}

/** The living processes of the session that `leader` started, whether or not it still lives itself. */
export function processesOfSession(leader: ProcessIdentity): ProcessIdentity[] {
  // The kernel does not reuse the leader's number while its session has members.
  const holder = identifyProcess(leader.pid);
  if (holder !== undefined && holder.startTicks !== leader.startTicks) return [];
  return readdirSync('/proc').flatMap((entry) => {
    const stat = /^\d+$/.test(entry) ? readStat(Number(entry)) : undefined;
    return stat?.session === leader.pid ? [stat.identity] : [];
  });
}

function readStat(pid: number): { identity: ProcessIdentity; session: number } | undefined {
  const fields = statOf(pid);
  if (fields === undefined) return undefined;
  const [state, threadCount] = [fields[0], Number(fields[17])];
  if (state === 'X' || (state === 'Z' && threadCount <= 1)) return undefined;
  return { identity: { pid, startTicks: Number(fields[19]) }, session: Number(fields[3]) };
}

/** Stopped by a signal or by a debugger. */
export function isStopped(pid: number): boolean {
  return ['T', 't'].includes(statOf(pid)?.[0] ?? '');
}

const TICKS_PER_SECOND = 100;

/** In milliseconds since 1970, according to the current clock. */
export function startOfThread(pid: number, thread: number): number | undefined {
  const ticks = statOf(`${pid}/task/${thread}`)?.[19];
  if (ticks === undefined) return undefined;
  const uptimeS = Number(readFileSync('/proc/uptime', 'latin1').split(' ')[0]);
  return Date.now() - (uptimeS - Number(ticks) / TICKS_PER_SECOND) * 1000;
}

/** The fields of /proc/PID/stat, from the third (the state) on. */
function statOf(pid: number | string): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The command name, field 2, may hold spaces and parentheses: count from its last one.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

export function isAlive({ pid, startTicks }: ProcessIdentity): boolean {
  return identifyProcess(pid)?.startTicks === startTicks;
}

/** @throws VmckptError TIMEOUT */
export async function untilEnded(target: ProcessIdentity, timeoutMs: number): Promise<void> {
  await poll(() => (isAlive(target) ? undefined : true), {
    what: `process ${target.pid} to end`,
    timeoutMs,
    everyMs: 5,
  });
}
