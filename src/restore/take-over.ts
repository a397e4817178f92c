/** `restore --resume NAME`: starts another serving process for a VM whose transfer ended too early. */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import { leaveControlGroup } from '../util/leave-control-group.js';
import { isAlive, type ProcessIdentity } from '../util/process-identity.js';
import { endProcess, sendSignal, SIGKILL, SIGUSR1 } from '../vms/processes.js';
import { buildReport, type RestoreReport } from './report.js';
import { endSilentTransfer } from '../vms/hung.js';
import { superviseTransfer } from './supervise.js';
import { ServerClient } from './server-client/client.js';
import { generationOf } from '../vms/records.js';
import { Generation } from '../store/generation.js';
import { requireVm } from '../vms/folder.js';
import { statusOf } from '../vms/status.js';
import { WatchedTransfer } from './server-client/watched.js';

const WATCH_EVERY_MS = 100;
const KEEPER_REACTS_MS = 1_000;
const KEEPER_ENDS_MS = 10_000;

export interface TakeOverOptions {
  /** The VM's name, as vmckpt ps shows it. */
  readonly name: string;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

/** @throws VmckptError NO_SUCH_VM, VM_STATE when there is nothing to take over, TRANSFER_FAILED */
export async function takeOver({
  name,
  onProgress,
  onMessage,
  signal,
}: TakeOverOptions): Promise<RestoreReport> {
  const { folder, record } = requireVm(name);
  const former = folder.readTransfer();
  const keeperLives = record.keeper !== undefined && isAlive(record.keeper);
  const wasSilent = await endSilentTransfer(folder);
  // When a serving process was killed, its keeper (or, without one, the verb) starts another.
  const isTold = keeperLives && wasSilent;
  if (isAlive(record.keeper ?? record.verb) && !isTold) await sleep(KEEPER_REACTS_MS);
  const status = statusOf(record, folder.readTransfer());
  if ((status !== 'transfer-lost' && !isTold) || record.qemu === undefined)
    throw new VmckptError(
      'VM_STATE',
      `"${name}" has the status ${status}, only a lost transfer can be taken over`,
      { hint: 'See vmckpt ps for the status of every restored VM.' },
    );
  // The keeper of an older vmckpt would start a serving process that may no longer be installed.
  if (keeperLives && record.isOlder) await endProcess(record.keeper!, SIGKILL, KEEPER_ENDS_MS);
  // Only descendants of the keeper may trace QEMU. A keeper whose successor is already at work ignores the signal.
  const isKept = keeperLives && !record.isOlder;
  if (isKept) sendSignal(record.keeper!, SIGUSR1);
  const manifest = new Generation(generationOf(record)).manifest;
  const transfer =
    isKept && former !== undefined
      ? new WatchedTransfer(folder, former, record.keeper!)
      : ServerClient.takeOver(folder, generationOf(record));
  const stays = await leaveControlGroup();
  if (stays !== undefined) onMessage(stays);
  const result = await superviseTransfer({
    folder,
    transfer,
    qemuEnded: untilEnded(record.qemu),
    totalBytes: manifest.sizes.nonZeroBytes,
    onProgress,
    onMessage,
    signal,
  });
  return buildReport({
    record,
    manifest,
    moved: [],
    times: undefined,
    result: { ...result, recoveries: result.recoveries + 1 },
  });
}

async function untilEnded(qemu: ProcessIdentity): Promise<void> {
  while (isAlive(qemu)) await sleep(WATCH_EVERY_MS);
}
