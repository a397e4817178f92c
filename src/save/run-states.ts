/**
 * What a save does with a VM in each state that QEMU has (its RunState): one decision for each. A restore gives back a
 * VM that runs, that a user has paused, or that waits for something which a user can see to; any other state is that
 * of a VM which is off, broken, or somewhere else, and a checkpoint of it would only hide the good one before.
 */
import { VmckptError } from '../errors.js';
import type { QemuVersion, QmpClient } from '../qemu/qmp.js';

/** The first version that gives the state of a sleeping guest away. */
const SLEEP_MIGRATES_SINCE = 9;

/** `runState` of the manifest; `vmState` is QEMU's own word where that says more. */
export interface SavedState {
  readonly runState: 'running' | 'paused';
  readonly vmState?: 'suspended' | 'io-error';
}

interface Refusal {
  /** Continues "the VM …". */
  readonly why: string;
  readonly hint: string;
}

const WAIT = 'Wait until it has ended, then save.';
const RESET =
  'Restore an earlier checkpoint, or start the guest anew: system_reset and then cont in its monitor.';

const DECISIONS: Readonly<Record<string, SavedState | Refusal>> = {
  running: { runState: 'running' },
  paused: { runState: 'paused' },
  suspended: { runState: 'running', vmState: 'suspended' },
  'io-error': { runState: 'paused', vmState: 'io-error' },
  prelaunch: {
    why: 'has not run since its start or reset, so there is nothing to save',
    hint: 'Let it run first: cont in its monitor.',
  },
  preconfig: {
    why: 'is still being configured (-preconfig)',
    hint: 'Start it first: x-exit-preconfig in its monitor.',
  },
  inmigrate: {
    why: 'is still being loaded',
    hint: 'Wait until it runs, then save. A QEMU that waits for a migration (-incoming) holds no VM yet.',
  },
  postmigrate: {
    why: 'was migrated, and goes on wherever it was migrated to',
    hint: 'Save it there.',
  },
  'finish-migrate': { why: 'is being migrated', hint: WAIT },
  'restore-vm': { why: 'is being set back to a snapshot (loadvm)', hint: WAIT },
  'save-vm': { why: 'is being saved by somebody else (savevm)', hint: WAIT },
  colo: { why: 'is one half of a COLO pair', hint: 'End the replication, then save.' },
  shutdown: { why: 'is off: its guest has shut down', hint: RESET },
  'guest-panicked': { why: 'has crashed: its guest panicked', hint: RESET },
  'internal-error': { why: 'has failed: QEMU or KVM could not run it any further', hint: RESET },
  watchdog: {
    why: 'was stopped by its watchdog, because the guest no longer answers',
    hint: 'Restore an earlier checkpoint, or let it go on (cont in its monitor) and save it when it answers again.',
  },
  debug: {
    why: 'was stopped by a debugger',
    hint: 'Let the debugger continue it, or detach, then save.',
  },
};

/** @throws VmckptError VM_STATE for a state in which a VM is not saved */
export function savedStateOf(status: string, version: QemuVersion): SavedState {
  const decision = DECISIONS[status];
  if (decision === undefined)
    throw new VmckptError('VM_STATE', `the VM is in the state "${status}", which vmckpt does not know`, {
      hint: 'Save it when it runs, or when it was paused by stop in its monitor.',
    });
  if ('why' in decision)
    throw new VmckptError('VM_STATE', `the VM ${decision.why} (${status})`, { hint: decision.hint });
  if (decision.vmState === 'suspended' && version.major < SLEEP_MIGRATES_SINCE) throw sleepIsLost(version);
  return decision;
}

/** @throws VmckptError VM_STATE when the guest went to sleep in a QEMU that wakes it, without its state, to save it */
export function refuseLostSleep({ version, pastEvents }: QmpClient): void {
  if (version.major < SLEEP_MIGRATES_SINCE && pastEvents.some(({ name }) => name === 'SUSPEND'))
    throw sleepIsLost(version);
}

/** It goes on by itself, be it that somebody wakes it: a save that pauses it lets it go on. */
export function isLive(status: string): boolean {
  return status === 'running' || status === 'suspended';
}

function sleepIsLost({ text }: QemuVersion): VmckptError {
  return new VmckptError(
    'VM_STATE',
    `the guest sleeps (suspended, S3), and QEMU ${text} would lose what it needs to wake up`,
    { hint: 'Wake it first: system_wakeup in its monitor. QEMU 9 and newer save it asleep.' },
  );
}
