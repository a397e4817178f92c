/** The program that makes a system call in another process's name, killed where a test wants it killed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readdirSync, readlinkSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { makeSocketPair, TRACKER_PATH } from '../../src/native/index.js';

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
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).filter((fd) => readlinkSync(`${folder}/${fd}`) === 'anon_inode:[userfaultfd]');
}
