/** `restore --resume NAME`: takes over the memory transfer of a VM whose serving process, and verb, have died or hang. */
import { setTimeout as sleep } from 'node:timers/promises';
import { readManifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { isAlive, type ProcessIdentity } from '../util/process-identity.js';
import { buildReport, type RestoreReport } from './report.js';
import { endSilentTransfer } from './silence.js';
import { superviseTransfer, takeOver } from './supervise.js';
import { requireVm, statusOf } from './vm-record.js';

const WATCH_EVERY_MS = 100;
const VERB_REACTS_MS = 2_000;

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
  // A verb that still waits for the VM takes over by itself.
  if (isAlive(record.verb)) await sleep(VERB_REACTS_MS);
  const status = statusOf(record, folder.readTransfer());
  if (status !== 'transfer-lost' || record.qemu === undefined)
    throw new VmckptError(
      'VM_STATE',
      `"${name}" has the status ${status}, only a lost transfer can be taken over`,
      {
        hint: 'vmckpt ps shows the status of every restored VM.',
      },
    );
  const { mode, generationDir, preempt, capabilities, memory } = record;
  const manifest = readManifest(generationDir);
  const order = {
    mode,
    preempt,
    capabilities: [...capabilities],
    ...(memory && { memory }),
    runs: true,
    recover: true,
  };
  const work = { folder, order, generationDir, signal, qemuEnded: untilEnded(record.qemu) };
  const transfer = await takeOver(work);
  const totalBytes = manifest.sizes.nonZeroBytes;
  const result = await superviseTransfer({ ...work, transfer, totalBytes, onProgress, onMessage });
  return buildReport({
    record,
    manifest,
    times: undefined,
    result: { ...result, recoveries: result.recoveries + 1 },
  });
}

async function untilEnded(qemu: ProcessIdentity): Promise<void> {
  while (isAlive(qemu)) await sleep(WATCH_EVERY_MS);
}
