/** What `restore --json` prints. Times in milliseconds (Us: microseconds), sizes in bytes; null: not (yet) known. */
import type { Manifest } from '../checkpoint/manifest.js';
import type { Moved } from '../qemu/relocation.js';
import { roundMs } from '../timeline/clock.js';
import type { FaultTimes } from '../transfer/fault-times.js';
import type { TransferCounters } from '../serving-protocol/counters.js';
import type { RestoreMode, VmRecord } from '../vms/records.js';

export interface RestoreTimes {
  readonly verbStartMs: number;
  readonly spawnedAtMs: number;
  readonly qemuReadyMs: number;
  /** Time of QEMU's RESUME event; undefined when the VM stays paused. */
  readonly resumedAtMs: number | undefined;
}

export interface TransferResult {
  readonly counters: TransferCounters;
  readonly faultPercentilesUs: readonly number[] | null;
  readonly completeAtMs: number;
  /** How many times a dead process was replaced. */
  readonly recoveries: number;
}

export const MEMORY_PATHS = ['direct', 'stream', 'map'] as const;
export type MemoryPath = (typeof MEMORY_PATHS)[number];

export interface RestoreReport {
  /** The checkpoint's name. */
  readonly name: string;
  readonly generation: number;
  /** The VM's name, as `ps` and `stop` use it. */
  readonly vmName: string;
  readonly mode: RestoreMode;
  /** How main memory came: directly into QEMU's memory, through its migration stream, or as a mapped file. */
  readonly path: MemoryPath;
  readonly qemuPid: number | null;
  readonly qmpSocket: string;
  readonly consoleSocket: string | null;
  /** What is in a different place than in the saved command line. */
  readonly moved: readonly Moved[];
  readonly ramBytes: number;
  readonly storedBytes: number;
  readonly resumeMs: number | null;
  readonly qemuReadyMs: number | null;
  readonly verbMs: number | null;
  readonly completeMs: number | null;
  readonly demandFaults: number;
  /** The part of them on pages that were withheld, to see whether the guest misses them. */
  readonly withheldFaults: number;
  readonly prefetchedPages: number;
  /** Null: unknown. */
  readonly prefetchUsedPages: number | null;
  readonly backgroundPages: number;
  readonly zeroPages: number;
  readonly transferredBytes: number;
  readonly faultUs: FaultTimes;
  /** 0th to 100th. */
  readonly faultPercentilesUs: readonly number[] | null;
  readonly vcpuBlockedMs: number;
  /** In which at least one fault waited for the source of the memory. */
  readonly starvedMs: number;
  readonly recoveries: number;
}

const NOTHING: TransferCounters = {
  demandFaults: 0,
  withheldFaults: 0,
  prefetchedPages: 0,
  backgroundPages: 0,
  zeroPages: 0,
  transferredBytes: 0,
  faultP50Us: 0,
  faultP90Us: 0,
  faultP99Us: 0,
  faultMaxUs: 0,
  vcpuBlockedMs: 0,
  starvedMs: 0,
};

export interface ReportParts {
  readonly record: VmRecord;
  readonly manifest: Manifest;
  readonly moved: readonly Moved[];
  /** Undefined when a VM was only taken over. */
  readonly times: RestoreTimes | undefined;
  /** Undefined while memory is still being loaded, and when it stays in its file. */
  readonly result: TransferResult | undefined;
}

export function buildReport({ record, manifest, moved, times, result }: ReportParts): RestoreReport {
  const counters = result?.counters ?? NOTHING;
  const since = (fromMs: number | undefined, toMs: number | undefined) =>
    fromMs === undefined || toMs === undefined ? null : roundMs(toMs - fromMs);
  const { demandFaults, withheldFaults, prefetchedPages } = counters;
  const { backgroundPages, zeroPages, transferredBytes } = counters;
  return {
    name: record.checkpoint ?? record.name,
    generation: record.generation,
    vmName: record.name,
    mode: record.mode,
    path: pathOf(record),
    qemuPid: record.qemu?.pid ?? null,
    qmpSocket: record.qmpSocket,
    consoleSocket: record.consoleSocket ?? null,
    moved,
    ramBytes: manifest.sizes.ramBytes,
    storedBytes: manifest.sizes.storedBytes,
    resumeMs: since(times?.spawnedAtMs, times?.resumedAtMs),
    qemuReadyMs: times?.qemuReadyMs ?? null,
    verbMs: since(times?.verbStartMs, times?.resumedAtMs),
    completeMs: since(times?.spawnedAtMs, result?.completeAtMs),
    demandFaults,
    withheldFaults,
    prefetchedPages,
    prefetchUsedPages: prefetchedPages === 0 ? 0 : null,
    backgroundPages,
    zeroPages,
    transferredBytes,
    faultUs: {
      p50: counters.faultP50Us,
      p90: counters.faultP90Us,
      p99: counters.faultP99Us,
      max: counters.faultMaxUs,
    },
    faultPercentilesUs: result?.faultPercentilesUs ?? null,
    vcpuBlockedMs: counters.vcpuBlockedMs,
    starvedMs: counters.starvedMs,
    recoveries: result?.recoveries ?? 0,
  };
}

function pathOf({ mode, order }: VmRecord): MemoryPath {
  if (mode === 'map') return 'map';
  return order?.memory === undefined ? 'stream' : 'direct';
}
