/**
 * Boots the guest of the project's measurements and tests (fixtures/guest) in a real QEMU. What it starts dies with
 * this process.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Console } from './console.js';
import { killAndWait, spawnTracked, type TrackedProcess } from './processes.js';
import { freePort } from './workloads.js';

export interface GuestPorts {
  readonly memcached: number;
  readonly http: number;
}

/** What fixtures/guest/build.sh makes. */
export interface GuestFiles {
  readonly kernel: string;
  readonly initrd: string;
  readonly disk: string;
}

export interface GuestOptions {
  /** A directory of the caller's own with a short path (it holds unix sockets). */
  readonly dir: string;
  /** QEMU. */
  readonly binary: string;
  readonly files: GuestFiles;
  readonly accel?: Accelerator;
  readonly machine?: 'q35' | 'pc' | (string & {});
  readonly ramMb?: number;
  /** How much the verifier fills, and how much of that it keeps rewriting. */
  readonly fillMb?: number;
  readonly dirtyMb?: number;
  readonly checkMbps?: number;
  readonly writeMbps?: number;
  readonly smp?: number;
  /** 2: memory in two backends on two NUMA nodes. */
  readonly numaNodes?: 1 | 2;
  readonly extraArgs?: readonly string[];
  /** More for the guest's kernel. */
  readonly kernelArgs?: string;
  /** Of 127.0.0.1, for what the guest serves; free ones by default. */
  readonly ports?: GuestPorts;
  /** QEMU boots nothing and waits for a migration, which the caller sees to; the guest is ready at its first heartbeat. */
  readonly incoming?: boolean;
}

export interface Guest {
  readonly pid: number;
  /** The whole command line, the binary first, without what only makes it wait for a migration. */
  readonly argv: readonly string[];
  readonly ramBytes: number;
  readonly qmpSocket: string;
  readonly consoleSocket: string;
  /** All that the console ever said, kept across restores. */
  readonly consoleLog: string;
  /** What QEMU itself said. */
  readonly qemuLog: string;
  readonly ports: GuestPorts;
  readonly console: Console;
  /** Resolves when memory is filled and the workloads are up; rejects with QEMU's own words when it ends before. */
  waitReady(): Promise<void>;
  /** Kills QEMU and waits until it is gone. */
  stop(): Promise<void>;
}

/** Software emulation, or the host's hardware. */
export type Accelerator = 'tcg' | 'kvm';

export const READY_TIMEOUT_MS = 120_000;
/** How long a QEMU may take to end after its console has closed. Then its own words are reported. */
const REAP_MS = 1000;

/** What the guest's kernel and workloads need for themselves. */
const GUEST_OVERHEAD_MB = 68;

/** As much as fits beside the guest's own needs: 700 MB of 1 GiB. */
export function defaultFillMb(ramMb: number): number {
  return Math.floor(ramMb * 0.75) - GUEST_OVERHEAD_MB;
}

export async function startGuest(options: GuestOptions): Promise<Guest> {
  const { dir, ramMb = 256, incoming = false } = options;
  const ports = options.ports ?? { memcached: await freePort(), http: await freePort() };
  const own = {
    qmpSocket: path.join(dir, 'qmp.sock'),
    consoleSocket: path.join(dir, 'console.sock'),
    consoleLog: path.join(dir, 'console.log'),
    qemuLog: path.join(dir, 'qemu.log'),
  };
  const argv = [
    options.binary,
    ...machineArgs(options, ramMb),
    ...deviceArgs(options.files, ports),
    ...['-qmp', `unix:${own.qmpSocket},server=on,wait=off`],
    ...[
      '-chardev',
      `socket,id=console,path=${own.consoleSocket},server=on,wait=off,logfile=${own.consoleLog},logappend=on`,
    ],
    ...['-serial', 'chardev:console'],
    ...(options.extraArgs ?? []),
  ];
  const qemu = spawnTracked([...argv, ...(incoming ? ['-incoming', 'defer'] : [])], own.qemuLog);
  const ended = rejectWhenEnded(qemu, own.qemuLog);
  const console = await Promise.race([Console.connect(own.consoleSocket), ended]);
  const isReady = incoming ? /^HB / : /^GUEST READY /;
  const ready = console.waitFor(isReady, READY_TIMEOUT_MS).catch(async (error: unknown) => {
    await Promise.race([ended, sleep(REAP_MS)]);
    throw error;
  });
  ready.catch(() => undefined);
  return {
    ...own,
    pid: qemu.pid,
    argv,
    ports,
    console,
    ramBytes: ramMb * 2 ** 20,
    waitReady: async () => {
      await ready;
    },
    stop: async () => {
      console.close();
      await killAndWait(qemu.pid);
    },
  };
}

function machineArgs(options: GuestOptions, ramMb: number): string[] {
  const { machine = 'q35', accel = 'tcg', smp = 1, numaNodes = 1, files } = options;
  const { fillMb = Math.floor(ramMb * 0.7) - 64, dirtyMb = 16, checkMbps = 32, writeMbps = 4 } = options;
  const nodes = numaNodes === 1 ? [] : [0, 1];
  return [
    ...['-machine', machine, '-accel', accel, '-m', `${ramMb}M`, '-smp', `${smp}`],
    ...nodes.flatMap((node) => [
      ...['-object', `memory-backend-ram,id=ram${node},size=${ramMb / nodes.length}M`],
      ...['-numa', `node,nodeid=${node},memdev=ram${node}`],
    ]),
    ...['-no-user-config', '-nodefaults', '-display', 'none', '-no-reboot'],
    ...['-kernel', files.kernel, '-initrd', files.initrd],
    '-append',
    [
      // On a busy host an emulated timer may be late enough for the kernel to give up: no_timer_check.
      'console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check',
      `vmckpt.fill_mb=${fillMb} vmckpt.dirty_mb=${dirtyMb}`,
      `vmckpt.check_mbps=${checkMbps} vmckpt.write_mbps=${writeMbps}`,
      ...(options.kernelArgs === undefined ? [] : [options.kernelArgs]),
    ].join(' '),
  ];
}

function deviceArgs({ disk }: GuestFiles, ports: GuestPorts): string[] {
  const forwards = [`tcp:127.0.0.1:${ports.memcached}-:11211`, `tcp:127.0.0.1:${ports.http}-:80`];
  return [
    ...['-drive', `id=disk,file=${disk},format=raw,if=none,readonly=on`],
    ...['-device', 'virtio-blk-pci,drive=disk'],
    ...['-netdev', ['user', 'id=net', ...forwards.map((forward) => `hostfwd=${forward}`)].join(',')],
    ...['-device', 'virtio-net-pci,netdev=net'],
    ...['-device', 'virtio-balloon-pci', '-device', 'virtio-rng-pci'],
  ];
}

/** A QEMU that refuses its command line, or panics, ends at once. Its own words are then the message. */
async function rejectWhenEnded(qemu: TrackedProcess, qemuLog: string): Promise<never> {
  const [code] = (await once(qemu, 'exit')) as [number | null];
  throw new Error(`QEMU ended with code ${code}: ${readFileSync(qemuLog, 'utf8')}`);
}
