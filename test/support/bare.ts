/**
 * Boots the guest without a kernel (fixtures/bare), which checks all of its memory, its code and its clocks in every
 * sweep, under KVM or in software emulation; and reads what it finds.
 */
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import type { Accelerator } from '../../src/bench/guest.js';
import { bareGuestFile, qemuBinary, type QemuChoice } from './cache.js';
import { Console } from './console.js';
import { killAndWait, spawnTracked } from './processes.js';
import { BACKSTOP_MS } from './until.js';

export const BARE_WHOLE = { memory: true, code: true, dma: true, counters: true, clocks: true };

export interface BareOptions {
  /** A directory of the caller's own with a short path (it holds unix sockets). */
  readonly dir: string;
  readonly qemu?: QemuChoice | (string & {});
  readonly accel?: Accelerator;
  readonly machine?: 'q35' | 'pc' | (string & {});
  readonly ramMb?: number;
  readonly smp?: 1 | 2;
  /** For the guest: `writer` rewrites a quarter of memory without pause, `pause=N` sleeps N × 10 ms between sweeps. */
  readonly words?: string;
  readonly extraArgs?: readonly string[];
}

export interface BareVm {
  readonly pid: number;
  /** The whole command line, the binary first. */
  readonly argv: readonly string[];
  readonly ramBytes: number;
  readonly qmpSocket: string;
  readonly consoleSocket: string;
  readonly qemuLog: string;
  readonly console: Console;
  readonly smp: number;
  /** Kills QEMU and waits until it is gone. */
  stop(): Promise<void>;
}

/** What a processor of the guest found in a sweep. */
export interface Sweep {
  readonly cpu: number;
  readonly n: number;
  readonly boot: number;
  readonly ok: number;
  /** Since the guest booted, as `n`, `gen`, `ticks` and the nanoseconds of `clock` are. */
  readonly bad: number;
  /** Pages that got another content. */
  readonly gen: number;
  readonly code: boolean;
  readonly dma: boolean;
  /** Of the timer of the local APIC. */
  readonly ticks: number;
  /** Of kvmclock; 0 without KVM. */
  readonly clock: number;
}

const SWEEP =
  /^SWEEP cpu=(\d+) n=(\d+) boot=(\d+) ok=(\d+) bad=(\d+) gen=(\d+) code=(\w+) dma=(\w+) ticks=(\d+) clock=(\d+) steal=\d+$/;

/** Why nothing can be tried under KVM here, or undefined. */
export function kvmProblem(): string | undefined {
  try {
    closeSync(openSync('/dev/kvm', 'r+'));
    return undefined;
  } catch (error) {
    return `/dev/kvm does not open: ${(error as NodeJS.ErrnoException).code}`;
  }
}

/** Returns when the guest has filled its memory and checks it. */
export async function startBare(options: BareOptions): Promise<BareVm> {
  const { dir, qemu = 'system', accel = 'tcg', machine = 'q35', ramMb = 64, smp = 1 } = options;
  const own = {
    qmpSocket: path.join(dir, 'qmp.sock'),
    consoleSocket: path.join(dir, 'console.sock'),
    qemuLog: path.join(dir, 'qemu.log'),
  };
  const argv = [
    qemuBinary(qemu),
    ...['-machine', machine, '-accel', accel, '-m', `${ramMb}M`, '-smp', `${smp}`],
    ...(accel === 'kvm' ? ['-cpu', 'host,-arch-capabilities'] : []),
    ...['-no-user-config', '-nodefaults', '-display', 'none', '-no-reboot'],
    ...['-kernel', bareGuestFile(), '-append', options.words ?? ''],
    ...['-qmp', `unix:${own.qmpSocket},server=on,wait=off`],
    ...['-chardev', `socket,id=console,path=${own.consoleSocket},server=on,wait=off`],
    ...['-serial', 'chardev:console'],
    ...(options.extraArgs ?? []),
  ];
  const { pid } = spawnTracked(argv, own.qemuLog);
  const console = await Console.connect(own.consoleSocket);
  await console.waitFor(/^BARE READY /, BACKSTOP_MS);
  const stop = async (): Promise<void> => {
    console.close();
    await killAndWait(pid);
  };
  return { ...own, pid, argv, console, smp, ramBytes: ramMb * 2 ** 20, stop };
}

/** The next sweep of each processor. */
export async function nextSweeps({ console, smp }: Pick<BareVm, 'console' | 'smp'>): Promise<Sweep[]> {
  return Promise.all(Array.from({ length: smp }, (_, cpu) => nextSweep(console, cpu)));
}

/** The next sweep that the processor ends. */
export async function nextSweep(console: Console, cpu = 0, timeoutMs = BACKSTOP_MS): Promise<Sweep> {
  const ofCpu = new RegExp(`^SWEEP cpu=${cpu} .* steal=\\d+$`);
  const [line] = await console.waitFor(ofCpu, timeoutMs);
  const [, ...fields] = SWEEP.exec(line)!;
  const number = (at: number): number => Number(fields[at]);
  return {
    cpu,
    n: number(1),
    boot: number(2),
    ok: number(3),
    bad: number(4),
    gen: number(5),
    code: fields[6] === 'ok',
    dma: fields[7] === 'ok',
    ticks: number(8),
    clock: number(9),
  };
}

/**
 * Two sweeps of one processor after a restore, the second of which began in it: all of its memory, its code and what
 * QEMU writes, and counters and clocks that went on from where they were at the checkpoint.
 */
export async function examineBare(console: Console, before: Sweep) {
  const first = await nextSweep(console, before.cpu);
  const second = await nextSweep(console, before.cpu);
  const isNext = (one: Sweep, other: Sweep): boolean =>
    one.boot === other.boot && other.n > one.n && other.gen > one.gen;
  const hasAdvanced = (one: Sweep, other: Sweep): boolean =>
    other.ticks > one.ticks && (other.clock > one.clock || one.clock + other.clock === 0);
  return {
    memory: first.bad === 0 && second.bad === 0 && second.ok === before.ok,
    code: second.code,
    dma: second.dma,
    counters: isNext(before, second) && isNext(first, second),
    clocks: hasAdvanced(before, second) && hasAdvanced(first, second),
  };
}
