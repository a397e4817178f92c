/** Makes a freshly started QEMU ready to be loaded, and tells when it runs. */
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { explainQemuMessage } from '../qemu/qemu-messages.js';
import { readLogTail, type LaunchedQemu, type ProcessEnd } from '../qemu/launch.js';
import { queryMigrate, withoutUserfaultfd } from '../qemu/migration-control.js';
import type { QmpClient } from '../qemu/qmp.js';
import type { HugePageSizes } from '../pages/host-pages.js';
import { poll } from '../util/deadline.js';
import type { ServerClient } from './server-client/client.js';
import type { ServingOrder } from '../serving-protocol/order.js';
import type { DirectlyFilled } from '../serving-protocol/order.js';

const Capabilities = v.array(v.object({ capability: v.string(), state: v.boolean() }));
/** All memory of a large VM from a slow disk. */
export const EAGER_TIMEOUT_MS = 3_600_000;
/** How long the other process of a failed loading gets to say why. */
export const LAST_WORDS_MS = 1_000;
/** From this version on QEMU wants the second connection only after the first has answered. */
const PREEMPT_AFTER_PONG_SINCE = 8;

export type IncomingMode = Pick<ServingOrder, 'mode' | 'preempt' | 'capabilities' | 'memory' | 'hugePages'>;

export interface ListenOptions {
  readonly mode: 'lazy' | 'eager';
  /** What is to be filled directly. */
  readonly memory?: DirectlyFilled | undefined;
  readonly hugePages?: HugePageSizes;
  /** Where QEMU is to listen. */
  readonly socket: string;
}

/** Switches on what the mode needs, and lets QEMU listen. @throws VmckptError NOT_PERMITTED without userfaultfd */
export async function listenForMachine(
  qmp: QmpClient,
  { mode, memory, hugePages, socket }: ListenOptions,
): Promise<IncomingMode> {
  const canPreempt = mode === 'lazy' && memory === undefined && (await knowsPreempt(qmp));
  const postcopy = mode === 'lazy' ? ['postcopy-ram', ...(canPreempt ? ['postcopy-preempt'] : [])] : [];
  // QEMU takes them in this order; one wait for both.
  await Promise.all([
    enable(qmp, ['events', ...postcopy]),
    qmp.execute('migrate-incoming', { uri: `unix:${socket}` }),
  ]);
  const whenPreempt = qmp.version.major >= PREEMPT_AFTER_PONG_SINCE ? 'after-pong' : 'at-once';
  return {
    mode,
    preempt: canPreempt ? whenPreempt : 'off',
    capabilities: ['events', ...postcopy],
    ...(memory && { memory }),
    hugePages,
  };
}

async function knowsPreempt(qmp: QmpClient): Promise<boolean> {
  const known = await qmp.query(Capabilities, 'query-migrate-capabilities');
  return known.some(({ capability }) => capability === 'postcopy-preempt');
}

async function enable(qmp: QmpClient, names: readonly string[]): Promise<void> {
  try {
    await qmp.execute('migrate-set-capabilities', {
      capabilities: names.map((capability) => ({ capability, state: true })),
    });
  } catch (error) {
    throw withoutUserfaultfd(error, { what: 'QEMU may not restore lazily', instead: '--mode eager' });
  }
}

export interface Run {
  /** Else the VM stays paused. */
  readonly runs: boolean;
  readonly signal: AbortSignal;
  /** When it is loaded, before it runs. */
  readonly onLoaded?: () => void;
}

/**
 * The wall clock (ms) when an eagerly loaded VM runs, by QEMU's RESUME event; undefined when it stays paused.
 * Unlike after post-copy, QEMU may want to be told.
 */
export async function runWhenLoaded(
  qmp: QmpClient,
  { runs, signal, onLoaded }: Run,
): Promise<number | undefined> {
  const resumed = runs ? qmp.waitForEvent(['RESUME'], { timeoutMs: EAGER_TIMEOUT_MS, signal }) : undefined;
  resumed?.catch(() => undefined); // awaited below, unless loading fails first
  await poll(async () => (await queryMigrate(qmp)).status === 'completed' || undefined, {
    what: 'QEMU to load the machine',
    timeoutMs: EAGER_TIMEOUT_MS,
    everyMs: 2,
    signal,
  });
  onLoaded?.();
  if (runs) await qmp.execute('cont');
  return (await resumed)?.timestampMs;
}

interface Loading {
  readonly qemu: LaunchedQemu;
  readonly transfer: ServerClient;
  readonly logPath: string;
}

/**
 * Rejects when QEMU or the serving process ends before the VM runs. Each takes the other along within a moment, so
 * both are heard: a transfer that says more than "connection lost" is right, else QEMU's own words are the reason.
 */
export async function failedWhileLoading({ qemu, transfer, logPath }: Loading): Promise<never> {
  const { exited } = qemu;
  await Promise.race([exited, transfer.failure().catch(() => undefined)]);
  const transferEnd = await Promise.race([transfer.ended, sleep(LAST_WORDS_MS)]);
  if (transferEnd?.type === 'lost')
    throw new VmckptError('TRANSFER_FAILED', 'the serving process was killed before the VM ran');
  if (transferEnd?.type === 'failed' && transferEnd.error.code !== 'TRANSFER_FAILED') throw transferEnd.error;
  const end = await Promise.race([exited, sleep(LAST_WORDS_MS)]);
  if (end !== undefined) throw endOfQemu(end, logPath);
  if (transferEnd?.type === 'failed') throw transferEnd.error;
  throw new VmckptError('TRANSFER_FAILED', 'the serving process ended before the VM ran');
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

export function endOfQemu({ exitCode, killedBy }: ProcessEnd, logPath: string): VmckptError {
  const words = readLogTail(logPath);
  const how = killedBy === null ? `exit code ${exitCode}` : killedBy;
  const explained = explainQemuMessage(words);
  return new VmckptError(
    explained === undefined ? 'QEMU_DIED' : 'QEMU_INCOMPATIBLE',
    `QEMU ended (${how}) while the machine was loaded${words === '' ? '' : `: ${words}`}`,
    { hint: explained ?? 'The checkpoint is unharmed. Restore it again.' },
  );
}
