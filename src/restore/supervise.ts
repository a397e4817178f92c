/**
 * From the running VM to the last page in place. When the serving process dies or hangs, QEMU goes to postcopy-paused (the
 * guest runs on until it touches a missing page) and another process takes over: QEMU itself knows what it has.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import type { TransferResult } from './report.js';
import { SilenceWatch } from './silence.js';
import { TransferClient } from './transfer-client.js';
import type { TransferOrder } from './transfer-job.js';
import type { VmFolder } from './vm-record.js';

const MAX_RECOVERIES = 20;
/** A QEMU that ends closes its connections a little before it is gone. */
const QEMU_END_MS = 500;

export interface Supervision {
  readonly folder: VmFolder;
  readonly order: TransferOrder;
  readonly generationDir: string;
  readonly transfer: TransferClient;
  /** Resolves when QEMU has ended. */
  readonly qemuEnded: Promise<unknown>;
  readonly onMessage: (text: string) => void;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly totalBytes: number;
  readonly signal: AbortSignal;
}

const WATCH_EVERY_MS = 200;

/** @throws VmckptError EXTENT_DAMAGED and its like, QEMU_DIED, TRANSFER_FAILED; INTERRUPTED leaves the transfer at work */
export async function superviseTransfer(supervision: Supervision): Promise<TransferResult> {
  const { order, qemuEnded, onMessage, signal } = supervision;
  let { transfer } = supervision;
  const interruption = interrupted(signal);
  interruption.catch(() => undefined); // awaited below, unless the transfer ends first
  let silence = new SilenceWatch(supervision.folder);
  const watch = setInterval(() => {
    reportProgress(supervision);
    if (silence.isSilent()) void transfer.kill();
  }, WATCH_EVERY_MS);
  try {
    for (let recoveries = 0; ; recoveries++) {
      const end = await Promise.race([transfer.ended, qemuGone(qemuEnded), interruption]);
      if (end.type === 'complete')
        return { counters: end.counters, completeAtMs: end.completeAtMs, recoveries };
      if (end.type === 'failed' && end.error.kind === 'damaged') throw end.error;
      // A transfer that says that it has failed has most often lost its QEMU.
      if (end.type === 'failed') await Promise.race([qemuGone(qemuEnded), sleep(QEMU_END_MS)]);
      if (order.mode === 'eager' || recoveries >= MAX_RECOVERIES)
        throw lost(end.type === 'failed' ? end.error : undefined);
      onMessage('The process that serves the memory has died, or hung; another one takes over.');
      transfer = await takeOver(supervision);
      silence = new SilenceWatch(supervision.folder);
    }
  } finally {
    clearInterval(watch);
    transfer.release();
  }
}

/** Starts a fresh transfer process on a VM whose last one has died; QEMU knows what it has received. */
export async function takeOver({
  folder,
  order,
  generationDir,
}: Pick<Supervision, 'folder' | 'order' | 'generationDir'>): Promise<TransferClient> {
  const transfer = TransferClient.start(folder, generationDir);
  // One that cannot begin has ended, and says why: see `ended`.
  await transfer.connect({ ...order, recover: true }).catch(() => transfer.kill());
  return transfer;
}

function reportProgress({ folder, totalBytes, onProgress }: Supervision): void {
  onProgress(folder.readTransfer()?.counters?.['transferredBytes'] ?? 0, totalBytes);
}

async function qemuGone(qemuEnded: Promise<unknown>): Promise<never> {
  await qemuEnded;
  throw new VmckptError('QEMU_DIED', 'QEMU ended while its memory was still being restored', {
    hint: 'See vmckpt logs NAME; the checkpoint is unharmed, restore it again.',
  });
}

function interrupted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const stop = () => reject(signal.reason as Error);
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
  });
}

function lost(cause: VmckptError | undefined): VmckptError {
  return new VmckptError('TRANSFER_FAILED', 'the memory of the VM could not be transferred to its end', {
    hint: 'vmckpt logs NAME says why; vmckpt restore --resume NAME tries again.',
    cause,
  });
}
