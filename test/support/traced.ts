/** The program that makes a system call in another process's name, killed where a test wants it killed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { isDeepStrictEqual } from 'node:util';
import { makeSocketPair, TRACKER_PATH } from '../../src/native/index.js';
import { openFilesOf } from './processes.js';
import { until } from './until.js';

/** Where vmckpt-tracker can be parked, in the order in which it gets there. */
export const TRACKER_POINTS = [
  'seized',
  'stopped',
  'prepared',
  'make-set',
  'make-entered',
  'made',
  'taken',
  'close-set',
  'close-entered',
  'closed',
] as const;

/** Numbers of x86-64. */
const CALLS = { read: 0, poll: 7, futex: 202, ppoll: 271 } as const;

export type SleepingCall = keyof typeof CALLS;

type TrackerPoint = (typeof TRACKER_POINTS)[number];

/** Returns when it stands there. */
export async function parkTracker(pid: number, point: TrackerPoint) {
  const [ours, theirs] = makeSocketPair();
  const child = spawn(TRACKER_PATH, [`${pid}`], {
    stdio: ['ignore', 'ignore', 'pipe', theirs],
    env: { ...process.env, VMCKPT_PARK: point },
  });
  const exited = once(child, 'exit');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
    closeSync(ours);
    closeSync(theirs);
  };
  const [line] = (await once(createInterface(child.stderr!), 'line')) as [string];
  if (line !== `process ${child.pid} is parked at ${point}`) throw new Error(line);
  return { pid: child.pid!, kill };
}

/** Kills it with -9 when it has come to the point. */
export async function killTrackerAt(pid: number, point: TrackerPoint): Promise<void> {
  await (await parkTracker(pid, point)).kill();
}

/** Kills it with -9 after so long, wherever it is then. */
export async function killTrackerAfter(pid: number, us: number): Promise<void> {
  const [ours, theirs] = makeSocketPair();
  const child = spawn(TRACKER_PATH, [`${pid}`], { stdio: ['ignore', 'ignore', 'inherit', theirs] });
  const exited = once(child, 'exit');
  const endNs = process.hrtime.bigint() + BigInt(Math.round(us * 1000));
  while (process.hrtime.bigint() < endNs);
  child.kill('SIGKILL');
  await exited;
  closeSync(ours);
  closeSync(theirs);
}

export function userfaultfdsOf(pid: number): string[] {
  return openFilesOf(pid).filter((name) => name === 'anon_inode:[userfaultfd]');
}

/** Returns when the process has a thread that sleeps in each of these calls, and no others. */
export async function untilAsleep(pid: number, calls: readonly SleepingCall[]): Promise<void> {
  const wanted = calls.map((call) => `${CALLS[call]}`).sort();
  await until(`process ${pid} to sleep in ${calls.join(', ')}`, () => {
    const found = readdirSync(`/proc/${pid}/task`).map((thread) => callOf(pid, thread));
    return isDeepStrictEqual(found.sort(), wanted);
  });
}

/** The number of the call that it sleeps in, `running` for one that does not. */
function callOf(pid: number, thread: string): string {
  return readFileSync(`/proc/${pid}/task/${thread}/syscall`, 'latin1').split(/\s/)[0]!;
}
