/** Whether restored VMs run or are paused, by what their QEMUs say. */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { QmpClient } from '../qemu/qmp.js';
import { VmFolder } from './folder.js';
import type { VmSummary } from './list.js';

/** A QEMU that waits for a page, or whose monitor another client has, does not answer. */
const ANSWERS_WITHIN_MS = 300;

const Status = v.object({ status: v.string() });

export interface WithRunState {
  /** QEMU's RunState: `running`, `paused`, …; null where there is none, or it cannot be told at once. */
  readonly runState: string | null;
}

/** All are asked at the same time. */
export function withRunStates(vms: readonly VmSummary[]): Promise<(VmSummary & WithRunState)[]> {
  return Promise.all(vms.map(async (vm) => ({ ...vm, runState: await runStateOf(vm) })));
}

async function runStateOf({ name, status, qemuPid }: VmSummary): Promise<string | null> {
  // A restore under way has the monitor.
  if (status === 'starting' || status === 'ended' || status === 'abandoned') return null;
  const limit = { timeoutMs: ANSWERS_WITHIN_MS };
  try {
    const qmp = await QmpClient.connect({ path: new VmFolder(name).file('qmp.sock'), ...limit });
    try {
      // A QEMU of another user's may have put anything there.
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
