/** What `vmckpt ps` shows: every restored VM that is not forgotten, and how much of its memory is loaded. */
import { readManifest } from '../checkpoint/manifest.js';
import { listVmFolders, type VmFolder } from './folder.js';
import { statusOf, type VmStatus } from './status.js';
import type { RestoreMode, TransferRecord, VmRecord } from './records.js';

export interface VmSummary {
  readonly name: string;
  /** The name of its checkpoint. */
  readonly checkpoint: string;
  readonly generation: number;
  readonly status: VmStatus;
  readonly mode: RestoreMode;
  readonly qemuPid: number | null;
  readonly ramBytes: number;
  /** Share of the generation's data, from 0 to 1. Null when the memory stays in its file, or the share is unknown. */
  readonly memoryShare: number | null;
  /** Whether it is served, and waits for a page that the source of its memory does not have yet. */
  readonly waitsForSource: boolean;
  readonly qmpSocket: string;
  readonly consoleSocket: string | null;
  /** ISO 8601. */
  readonly restoredAt: string;
  /** Why the transfer failed, if it did. */
  readonly error: { readonly code: string; readonly message: string } | null;
}

export function listVms(): VmSummary[] {
  return listVmFolders().flatMap((folder) => {
    const record = folder.read();
    return record === undefined ? [] : [summarize(folder, record)];
  });
}

function summarize(folder: VmFolder, record: VmRecord): VmSummary {
  const transfer = folder.readTransfer();
  const status = statusOf(record, transfer);
  return {
    name: record.name,
    checkpoint: record.checkpoint ?? record.name,
    generation: record.generation,
    status,
    mode: record.mode,
    qemuPid: record.qemu?.pid ?? null,
    ramBytes: record.ramBytes,
    memoryShare: memoryShare(record, transfer),
    waitsForSource: status === 'serving' && transfer?.waitsForSource === true,
    qmpSocket: record.qmpSocket,
    consoleSocket: record.consoleSocket ?? null,
    restoredAt: record.restoredAt,
    error: transfer?.error ?? null,
  };
}

function memoryShare({ mode, generationDir }: VmRecord, transfer: TransferRecord | undefined): number | null {
  if (mode === 'map') return null;
  if (transfer?.status === 'complete') return 1;
  return shareOf(transfer?.counters?.['transferredBytes'] ?? 0, generationDir);
}

function shareOf(transferredBytes: number, generationDir: string): number | null {
  try {
    const { nonZeroBytes } = readManifest(generationDir).sizes;
    return nonZeroBytes === 0 ? 1 : Math.min(1, transferredBytes / nonZeroBytes);
  } catch {
    return null;
  }
}
