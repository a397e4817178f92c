/** Why a VM could not be loaded: QEMU and its serving process take each other along, and one of them knows. */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import { endOfQemu } from '../qemu/incoming.js';
import type { LaunchedQemu } from '../qemu/launch.js';
import type { ServerClient } from './server-client/client.js';

/** How long the other process of a failed loading gets to say why. */
export const LAST_WORDS_MS = 1_000;

interface Loading {
  readonly qemu: LaunchedQemu;
  readonly server: ServerClient;
  readonly logPath: string;
}

/**
 * Rejects when QEMU or the serving process ends before the VM runs. Each takes the other along within a moment, so
 * both are heard: a transfer that says more than "connection lost" is right, else QEMU's own words are the reason.
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

/** A connection to QEMU has ended, by its monitor or by what was sent to it: the reason is QEMU's to say. */
export function isCutOff(error: unknown): boolean {
  if (error instanceof VmckptError) return error.code === 'TRANSFER_FAILED' || error.code === 'QMP_CLOSED';
  return ['EPIPE', 'ECONNRESET'].includes((error as NodeJS.ErrnoException).code ?? '');
}

/**
 * Resolves as `running` does, unless loading the VM failed before. A server says that the machine is loaded before it can
 * fail at anything else: then the VM runs, although QEMU's own word of that may be heard later.
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

/** What a failure means: a QEMU that ends closes its monitor, and it or its transfer has more to say about it than that. */
export async function explainFailure(error: unknown, loading: Loading): Promise<unknown> {
  if (!(error instanceof VmckptError) || error.code !== 'QMP_CLOSED') return error;
  const reason = failedWhileLoading(loading).catch((said: unknown) => said);
  return Promise.race([reason, sleep(3 * LAST_WORDS_MS).then(() => error)]);
}
