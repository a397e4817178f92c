/** Prepares a freshly started QEMU for loading, and waits until it runs. */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { codeOfQemuMessage, explainQemuMessage } from './qemu-messages.js';
import { readLogTail, type ProcessEnd } from './launch.js';
import { queryMigrate, withoutUserfaultfd } from './migration-control.js';
import type { QmpClient } from './qmp.js';
import { poll } from '../util/deadline.js';

const Capabilities = v.array(v.object({ capability: v.string(), state: v.boolean() }));
/** Enough to load a large VM's memory from a slow disk. */
export const EAGER_TIMEOUT_MS = 3_600_000;
/** From this version on QEMU expects the second connection only after the first has answered. */
const PREEMPT_AFTER_PONG_SINCE = 8;

/** How QEMU was set up for loading. */
export interface IncomingMode {
  readonly mode: 'lazy' | 'eager';
  /** When to make the second connection of `postcopy-preempt`. */
  readonly preempt: 'off' | 'at-once' | 'after-pong';
  /** Capabilities that were switched on. */
  readonly capabilities: string[];
}

export interface ListenOptions {
  readonly mode: 'lazy' | 'eager';
  /** Main memory does not come through the stream. */
  readonly isFilledDirectly: boolean;
  /** The socket on which QEMU is to listen. */
  readonly socket: string;
}

/** Enables what the mode needs, and makes QEMU listen. @throws VmckptError NOT_PERMITTED without userfaultfd */
export async function listenForMachine(
  qmp: QmpClient,
  { mode, isFilledDirectly, socket }: ListenOptions,
): Promise<IncomingMode> {
  const canPreempt = mode === 'lazy' && !isFilledDirectly && (await knowsPreempt(qmp));
  const postcopy = mode === 'lazy' ? ['postcopy-ram', ...(canPreempt ? ['postcopy-preempt'] : [])] : [];
  // QEMU processes them in this order; one wait covers both.
  await Promise.all([
    enable(qmp, ['events', ...postcopy]),
    qmp.execute('migrate-incoming', { uri: `unix:${socket}` }),
  ]);
  const whenPreempt = qmp.version.major >= PREEMPT_AFTER_PONG_SINCE ? 'after-pong' : 'at-once';
  return {
    mode,
    preempt: canPreempt ? whenPreempt : 'off',
    capabilities: ['events', ...postcopy],
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
  /** False: the VM stays paused. */
  readonly runs: boolean;
  readonly signal: AbortSignal;
  /** Called when the VM is loaded, before it runs. */
  readonly onLoaded?: () => void;
}

/**
 * Waits until an eagerly loaded VM runs, and returns the wall clock (ms) of QEMU's RESUME event; undefined when the VM
 * stays paused. Unlike after post-copy, QEMU may need a command to run.
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

export function endOfQemu({ exitCode, killedBy }: ProcessEnd, logPath: string): VmckptError {
  const words = readLogTail(logPath);
  const how = killedBy === null ? `exit code ${exitCode}` : killedBy;
  return new VmckptError(
    codeOfQemuMessage(words) ?? 'QEMU_DIED',
    `QEMU ended (${how}) while the machine was loaded${words === '' ? '' : `: ${words}`}`,
    { hint: explainQemuMessage(words) ?? 'The checkpoint is unharmed. Restore it again.' },
  );
}
