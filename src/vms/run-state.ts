/** Asks the QEMUs of restored VMs whether they run or are paused. */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { QmpClient } from '../qemu/qmp.js';
import { VmFolder } from './folder.js';
import type { VmSummary } from './list.js';

/** QEMU does not answer while it waits for a page, or while another client has its monitor. */
const ANSWERS_WITHIN_MS = 300;

const Status = v.object({ status: v.string() });

export interface WithRunState {
  /** QEMU's RunState: `running`, `paused`, …; null without a QEMU, or when it does not answer at once. */
  readonly runState: string | null;
}

/** Asks all of them at the same time. */
export function withRunStates(vms: readonly VmSummary[]): Promise<(VmSummary & WithRunState)[]> {
  return Promise.all(vms.map(async (vm) => ({ ...vm, runState: await runStateOf(vm) })));
}

async function runStateOf({ name, status, qemuPid }: VmSummary): Promise<string | null> {
  // The restore that is under way has the monitor.
  if (status === 'starting' || status === 'ended' || status === 'abandoned') return null;
  const limit = { timeoutMs: ANSWERS_WITHIN_MS };
  try {
    const qmp = await QmpClient.connect({ path: new VmFolder(name).file('qmp.sock'), ...limit });
    try {
      // If QEMU runs as another user, that user may have put any socket there.
      if (qmp.peerPid() !== qemuPid) return null;
      return (await qmp.query(Status, 'query-status', {}, limit)).status;
    } finally {
      await qmp.close();
    }
  } catch (error) {
    if (error instanceof VmckptError) return null;
    throw error;
  }
}
