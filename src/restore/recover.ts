/** `restore --resume NAME`: has the memory of a VM served again whose transfer has come to an end too early. */
import { setTimeout as sleep } from 'node:timers/promises';
import { readManifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { isAlive, type ProcessIdentity } from '../util/process-identity.js';
import { sendSignal, SIGUSR1 } from './end-process.js';
import { buildReport, type RestoreReport } from './report.js';
import { endSilentTransfer } from './silence.js';
import { superviseTransfer } from './supervise.js';
import { TransferClient, type ServedTransfer } from './transfer-client.js';
import { requireVm, statusOf, type VmFolder, type VmRecord } from './vm-record.js';
import { WatchedTransfer } from './watched-transfer.js';

const WATCH_EVERY_MS = 100;
const KEEPER_REACTS_MS = 1_000;

export interface RecoverOptions {
  /** The name that the VM was restored from. */
  readonly name: string;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

/** @throws VmckptError NO_SUCH_VM, VM_STATE when there is nothing to take over, TRANSFER_FAILED */
export async function recover({
  name,
  onProgress,
  onMessage,
  signal,
}: RecoverOptions): Promise<RestoreReport> {
  const { folder, record } = requireVm(name);
  await endSilentTransfer(folder);
  // A keeper starts another process by itself when one was killed.
  if (record.keeper !== undefined && isAlive(record.keeper)) await sleep(KEEPER_REACTS_MS);
  const status = statusOf(record, folder.readTransfer());
  if (status !== 'transfer-lost' || record.qemu === undefined)
    throw new VmckptError(
      'VM_STATE',
      `"${name}" has the status ${status}, only a lost transfer can be taken over`,
      { hint: 'vmckpt ps shows the status of every restored VM.' },
    );
  const manifest = readManifest(record.generationDir);
  const result = await superviseTransfer({
    folder,
    transfer: startSuccessor(folder, record),
    qemuEnded: untilEnded(record.qemu),
    totalBytes: manifest.sizes.nonZeroBytes,
    onProgress,
    onMessage,
    signal,
  });
  return buildReport({
    record,
    manifest,
    times: undefined,
    result: { ...result, recoveries: result.recoveries + 1 },
  });
}

/** By the keeper where there is one: its descendants may trace QEMU. */
function startSuccessor(folder: VmFolder, { keeper, generationDir }: VmRecord): ServedTransfer {
  const former = folder.readTransfer();
  if (keeper === undefined || former === undefined || !isAlive(keeper))
    return TransferClient.takeOver(folder, generationDir);
  sendSignal(keeper, SIGUSR1);
  return new WatchedTransfer(folder, former);
}

async function untilEnded(qemu: ProcessIdentity): Promise<void> {
  while (isAlive(qemu)) await sleep(WATCH_EVERY_MS);
}
