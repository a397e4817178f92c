/** Makes a freshly started QEMU ready to be loaded, and tells when it runs. */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { codeOfQemuMessage, explainQemuMessage } from './qemu-messages.js';
import { readLogTail, type ProcessEnd } from './launch.js';
import { queryMigrate, withoutUserfaultfd } from './migration-control.js';
import type { QmpClient } from './qmp.js';
import { poll } from '../util/deadline.js';

const Capabilities = v.array(v.object({ capability: v.string(), state: v.boolean() }));
/** All memory of a large VM from a slow disk. */
export const EAGER_TIMEOUT_MS = 3_600_000;
/** From this version on QEMU wants the second connection only after the first has answered. */
const PREEMPT_AFTER_PONG_SINCE = 8;

/** How QEMU has been set up to be loaded. */
export interface IncomingMode {
  readonly mode: 'lazy' | 'eager';
  /** When the second connection of `postcopy-preempt` is to be made. */
  readonly preempt: 'off' | 'at-once' | 'after-pong';
  /** Capabilities that were switched on. */
  readonly capabilities: string[];
}

export interface ListenOptions {
  readonly mode: 'lazy' | 'eager';
  /** Its main memory does not come through the stream. */
  readonly isFilledDirectly: boolean;
  /** Where QEMU is to listen. */
  readonly socket: string;
}

/** Switches on what the mode needs, and lets QEMU listen. @throws VmckptError NOT_PERMITTED without userfaultfd */
export async function listenForMachine(
  qmp: QmpClient,
  { mode, isFilledDirectly, socket }: ListenOptions,
): Promise<IncomingMode> {
  const canPreempt = mode === 'lazy' && !isFilledDirectly && (await knowsPreempt(qmp));
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

export function endOfQemu({ exitCode, killedBy }: ProcessEnd, logPath: string): VmckptError {
  const words = readLogTail(logPath);
  const how = killedBy === null ? `exit code ${exitCode}` : killedBy;
  return new VmckptError(
    codeOfQemuMessage(words) ?? 'QEMU_DIED',
    `QEMU ended (${how}) while the machine was loaded${words === '' ? '' : `: ${words}`}`,
    { hint: explainQemuMessage(words) ?? 'The checkpoint is unharmed. Restore it again.' },
  );
}
