/** Why a VM could not be loaded. QEMU and its serving process end together; one of them knows the reason. */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import { endOfQemu } from '../qemu/incoming.js';
import type { LaunchedQemu } from '../qemu/launch.js';
import type { ServerClient } from './server-client/client.js';

/** How long the other process may take to report its reason. */
export const LAST_WORDS_MS = 1_000;

interface Loading {
  readonly qemu: LaunchedQemu;
  readonly server: ServerClient;
  readonly logPath: string;
}

/**
 * Rejects when QEMU or the serving process ends before the VM runs. When one ends, the other follows within a moment,
 * so both are asked. If the transfer reports more than "connection lost", that is the reason; otherwise QEMU's log
 * is.
 */
export async function failedWhileLoading({ qemu, server, logPath }: Loading): Promise<never> {
  const { exited } = qemu;
  await Promise.race([exited, server.failure().catch(() => undefined)]);
  const serverEnd = await Promise.race([server.ended, sleep(LAST_WORDS_MS)]);
  if (serverEnd?.type === 'lost')
    throw new VmckptError('TRANSFER_FAILED', 'the serving process was killed before the VM ran');
  if (serverEnd?.type === 'failed' && !isCutOff(serverEnd.error)) throw serverEnd.error;
  const end = await Promise.race([exited, sleep(LAST_WORDS_MS)]);
  if (end !== undefined) throw endOfQemu(end, logPath);
  if (serverEnd?.type === 'failed') throw serverEnd.error;
  throw new VmckptError('TRANSFER_FAILED', 'the serving process ended before the VM ran');
}

/** True if a connection to QEMU was lost (monitor or migration): then QEMU's log has the reason. */
export function isCutOff(error: unknown): boolean {
  if (error instanceof VmckptError) return error.code === 'TRANSFER_FAILED' || error.code === 'QMP_CLOSED';
  return ['EPIPE', 'ECONNRESET'].includes((error as NodeJS.ErrnoException).code ?? '');
}

/**
 * Resolves as `running` does, unless loading the VM failed first. After `machineLoaded`, a failure of the server no
 * longer counts: the VM runs, although its RESUME event may arrive later.
 */
export function runsUnlessFailed<T>(
  running: Promise<T>,
  { failed, machineLoaded }: { readonly failed: Promise<never>; readonly machineLoaded: Promise<void> },
): Promise<T> {
  let isLoaded = false;
  void machineLoaded.then(() => (isLoaded = true));
  const failedBefore = failed.catch((error: unknown) => {
    if (isLoaded) return running;
    throw error;
  });
  return Promise.race([running, failedBefore]);
}

/** Replaces "monitor closed" by what QEMU or the serving process reports about it. */
export async function explainFailure(error: unknown, loading: Loading): Promise<unknown> {
  if (!(error instanceof VmckptError) || error.code !== 'QMP_CLOSED') return error;
  const reason = failedWhileLoading(loading).catch((said: unknown) => said);
  return Promise.race([reason, sleep(3 * LAST_WORDS_MS).then(() => error)]);
}
