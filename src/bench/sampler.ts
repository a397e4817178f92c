/**
 * Watches from outside how much of a VM's memory is in place: the resident set of its QEMU, the same measure for every
 * way of restoring. Also how much memory the processes need that bring it there.
 */
import { readFileSync } from 'node:fs';
import { PAGE_BYTES } from '../pages/layout.js';
import { nowMs } from '../timeline/clock.js';
import { processesOf, runningPids } from './processes.js';

const EVERY_MS = 20;
const EMULATOR = /^qemu/;

export interface ResidentSample {
  /** The wall clock. */
  readonly atMs: number;
  readonly residentBytes: number;
}

export class Sampler {
  readonly samples: ResidentSample[] = [];
  readonly #runtimeDir: string;
  readonly #othersPids = new Set(runningPids());
  readonly #timer: NodeJS.Timeout;
  #qemuPid: number | undefined;
  readonly #helpers = new Set<number>();
  #helperPeakBytes = 0;

  /** Begins at once. QEMU may not have been started yet. */
  constructor(runtimeDir: string) {
    this.#runtimeDir = runtimeDir;
    this.#timer = setInterval(() => this.#sample(), EVERY_MS);
  }

  /** The most that all processes but QEMU have had in memory at one time, mapped files apart. */
  get helperPeakBytes(): number {
    return this.#helperPeakBytes;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #sample(): void {
    // Only until QEMU is there: going through all processes costs more than the sample.
    if (this.#qemuPid === undefined) this.#look();
    const residentBytes = this.#qemuPid === undefined ? undefined : residentBytesOf(this.#qemuPid);
    if (residentBytes !== undefined) this.samples.push({ atMs: nowMs(), residentBytes });
    const helperBytes = [...this.#helpers].reduce((sum, pid) => sum + ownBytesOf(pid), 0);
    this.#helperPeakBytes = Math.max(this.#helperPeakBytes, helperBytes);
  }

  #look(): void {
    for (const { pid, program } of processesOf(this.#runtimeDir, this.#othersPids))
      if (EMULATOR.test(program)) this.#qemuPid = pid;
      else this.#helpers.add(pid);
    // A process about to become QEMU still looks like its parent.
    if (this.#qemuPid !== undefined) this.#helpers.delete(this.#qemuPid);
  }
}

/** Second field of proc_pid_statm(5). */
function residentBytesOf(pid: number): number | undefined {
  const pages = readProc(pid, 'statm')?.split(' ')[1];
  return pages === undefined ? undefined : Number(pages) * PAGE_BYTES;
}

/** Resident memory that is its own; mapped checkpoint files are the page cache's. */
function ownBytesOf(pid: number): number {
  const status = readProc(pid, 'status') ?? '';
  const kib = ['RssAnon', 'RssShmem'].map(
    (field) => new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1],
  );
  return kib.reduce((sum, value) => sum + Number(value ?? 0) * 1024, 0);
}

/** How much of the process's private memory lies in huge pages. */
export function hugePageBytesOf(pid: number): number | null {
  const kib = /^AnonHugePages:\s+(\d+) kB$/m.exec(readProc(pid, 'smaps_rollup') ?? '')?.[1];
  return kib === undefined ? null : Number(kib) * 1024;
}

function readProc(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return undefined; // it has ended
  }
}
