/** The guests of soaks: they can tell whether they are whole. */
import { isDeepStrictEqual } from 'node:util';
import type { Accelerator } from '../src/bench/guest.js';
import { save } from '../src/save/save.js';
import { BARE_WHOLE, examineBare, nextSweeps, startBare } from '../test/support/bare.js';
import { Console } from '../test/support/console.js';
import { pidsOf } from '../test/support/faults.js';
import { startGuest } from '../test/support/guest.js';
import type { Workplace } from './workplace.js';

export interface Subject {
  readonly argv: readonly string[];
  readonly qmpSocket: string;
  readonly consoleSocket: string;
  stop(): Promise<void>;
  /** @throws Error that says what it finds wrong with itself */
  requireWhole(console: Console): Promise<void>;
}

/** Counts on, and finds all of its memory and its disk as they must be. */
export async function linuxSubject(dir: string, qemu: string): Promise<Subject> {
  const guest = await startGuest({ dir, qemu });
  await guest.waitReady();
  const requireWhole = async (console: Console): Promise<void> => {
    const first = await console.nextHeartbeat();
    const { ok, bad, n } = await console.verify();
    if (!ok || bad > 0) throw new Error(`the guest finds ${bad} of its pages wrong`);
    if (n <= first.n) throw new Error(`the guest's counter stands at ${n}`);
    if (!(await console.diskIntact())) throw new Error('the guest finds its disk wrong');
  };
  return { ...guest, requireWhole };
}

interface BareSubjectOptions {
  readonly dir: string;
  readonly qemu: string;
  readonly accel: Accelerator;
  readonly smp: 1 | 2;
  readonly ramMb?: number;
}

/** Each of its vCPUs looks after its share of memory. */
export async function bareSubject(options: BareSubjectOptions): Promise<Subject> {
  const guest = await startBare({ ...options, words: 'pause=3' });
  const before = await nextSweeps(guest);
  // It has one client at a time.
  guest.console.close();
  const requireWhole = async (console: Console): Promise<void> => {
    const findings = await Promise.all(before.map((sweep) => examineBare(console, sweep)));
    const isWhole = findings.every((finding) => isDeepStrictEqual(finding, BARE_WHOLE));
    if (!isWhole) throw new Error(`the guest finds of itself: ${JSON.stringify(findings)}`);
  };
  return { ...guest, requireWhole };
}

/** One QEMU, and a guest in it that is whole. */
export async function requireWhole(guest: Subject, workplace: Workplace): Promise<void> {
  qemuOf(workplace);
  const console = await Console.connect(guest.consoleSocket);
  try {
    await guest.requireWhole(console);
  } finally {
    console.close();
  }
}

/** The process of the one QEMU that runs here. */
export function qemuOf({ runtimeDir }: Workplace): number {
  const [qemu, ...others] = pidsOf(runtimeDir, 'qemu');
  if (qemu === undefined || others.length > 0)
    throw new Error(`${others.length + (qemu === undefined ? 0 : 1)} QEMUs are running, 1 expected`);
  return qemu;
}

interface CaptureWishes {
  readonly name: string;
  /** How many generations of the name stay. */
  readonly kept: number;
  readonly track?: boolean;
}

/** Saves it in this process: that is quicker, and what is not closed adds up. */
export async function captureHere(
  { qmpSocket }: Subject,
  { storeDir }: Workplace,
  { kept, ...wishes }: CaptureWishes,
): Promise<void> {
  const { method, pruned } = await save({
    ...wishes,
    vm: `qmp:${qmpSocket}`,
    storeDir,
    method: 'capture',
    quit: false,
    level: 1,
    disksExternal: false,
    keep: { last: kept },
    onProgress: () => undefined,
    onMessage: () => undefined,
    signal: new AbortController().signal,
  });
  if (method !== 'capture' || pruned === null || pruned.failed.length > 0)
    throw new Error(`saved by ${method}, and pruned: ${JSON.stringify(pruned)}`);
}

export function restoreArgs(guest: Subject, ...args: readonly string[]): string[] {
  return ['restore', '--qemu', guest.argv[0]!, '--trust-command-line', ...args];
}

export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await work();
  return performance.now() - startMs;
}
