/**
 * From the running VM to the last page in place. When the serving process dies, its keeper starts another one, which
 * takes over. A serving process that hangs is killed, so that the same happens.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import type { TransferResult } from './report.js';
import { SilenceWatch } from '../vms/hung.js';
import type { ServedTransfer } from './server-client/handle.js';
import type { VmFolder } from '../vms/folder.js';

/** A QEMU that ends closes its connections shortly before its process is gone. */
const QEMU_END_MS = 500;

export interface Supervision {
  readonly folder: VmFolder;
  readonly transfer: ServedTransfer;
  /** Resolves when QEMU has ended. */
  readonly qemuEnded: Promise<unknown>;
  readonly onMessage: (text: string) => void;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly totalBytes: number;
  readonly signal: AbortSignal;
}

const WATCH_EVERY_MS = 200;

/**
 * @throws VmckptError EXTENT_DAMAGED and its like, VM_STATE when another transfer is at work, QEMU_DIED,
 * TRANSFER_FAILED; INTERRUPTED leaves the transfer at work
 */
export async function superviseTransfer(supervision: Supervision): Promise<TransferResult> {
  const { folder, transfer, onMessage, signal } = supervision;
  const over = new AbortController();
  const interruption = interrupted(folder.name, signal, over.signal);
  interruption.catch(() => undefined); // awaited below, unless the transfer ends first
  let silence = new SilenceWatch(supervision.folder);
  transfer.onTakeover = () => {
    onMessage('The process that serves the memory has died or hung; another one takes over.');
    silence = new SilenceWatch(supervision.folder);
  };
  const watch = setInterval(() => {
    reportProgress(supervision);
    if (silence.isSilent()) transfer.kill();
  }, WATCH_EVERY_MS);
  try {
    const end = await Promise.race([transfer.ended, qemuGone(supervision), interruption]);
    if (end.type === 'complete') {
      const { counters, faultPercentilesUs, completeAtMs } = end;
      return { counters, faultPercentilesUs, completeAtMs, recoveries: transfer.takeoverCount };
    }
    if (end.type === 'failed' && end.error.kind === 'damaged') throw halted(folder.name, end.error);
    if (end.type === 'failed' && end.error.code === 'VM_STATE') throw end.error;
    // A transfer that reports a failure has most often lost its QEMU.
    await Promise.race([qemuGone(supervision), sleep(QEMU_END_MS)]);
    throw lost(folder.name, end.type === 'failed' ? end.error : undefined);
  } finally {
    clearInterval(watch);
    over.abort();
    transfer.release();
  }
}

function reportProgress({ folder, totalBytes, onProgress }: Supervision): void {
  onProgress(folder.readTransfer()?.counters?.['transferredBytes'] ?? 0, totalBytes);
}

async function qemuGone({ folder, qemuEnded, transfer }: Supervision): Promise<never> {
  await qemuEnded;
  // QEMU may have been killed on purpose (damage before it ran): then that is the cause to report.
  const end = await Promise.race([transfer.ended, sleep(QEMU_END_MS)]);
  if (end?.type === 'failed' && end.error.kind === 'damaged') throw halted(folder.name, end.error);
  throw new VmckptError('QEMU_DIED', 'QEMU ended while its memory was still being restored', {
    hint: `See vmckpt logs ${folder.name}. The checkpoint is unharmed; restore it again.`,
  });
}

/** Rejects when `signal` aborts, unless `over` aborted first. The VM and its transfer go on. */
function interrupted(name: string, signal: AbortSignal, over: AbortSignal): Promise<never> {
  const goesOn = new VmckptError('INTERRUPTED', `interrupted, but "${name}" is restored and stays`, {
    hint: `The rest of its memory is loaded in the background: vmckpt ps shows it, and vmckpt stop ${name} ends the VM.`,
  });
  return new Promise((_resolve, reject) => {
    const stop = () => reject(goesOn);
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true, signal: over });
  });
}

/** The VM ran until it reached damaged memory. It keeps its name. */
function halted(name: string, { code, message }: VmckptError): VmckptError {
  return new VmckptError(code, message, {
    hint: `The VM is halted. End it (vmckpt stop ${name}), then restore another generation; vmckpt check lists all damage.`,
  });
}

function lost(name: string, cause: VmckptError | undefined): VmckptError {
  return new VmckptError('TRANSFER_FAILED', 'the memory of the VM could not be transferred completely', {
    hint: `See vmckpt logs ${name} for the reason, and try again with vmckpt restore --resume ${name}.`,
    cause,
  });
}
