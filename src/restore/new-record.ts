/** The record of a VM that is about to be started. */
import type { Manifest } from '../checkpoint/manifest.js';
import type { LaunchPlan } from '../launch/launch-plan.js';
import type { Generation } from '../store/store.js';
import { identifyProcess } from '../util/process-identity.js';
import { RECORD_VERSION, type RestoreMode, type VmRecord } from '../vms/records.js';

export interface VmBeginnings {
  readonly vmName: string;
  readonly located: Generation;
  readonly manifest: Manifest;
  readonly mode: RestoreMode;
  readonly plan: LaunchPlan;
  readonly verbStartMs: number;
}

/** What is known of a VM before its QEMU is started. */
export function newRecord({ vmName, located, manifest, mode, plan, verbStartMs }: VmBeginnings): VmRecord {
  return {
    version: RECORD_VERSION,
    name: vmName,
    ...(vmName !== located.name && { checkpoint: located.name }),
    generation: located.number,
    generationDir: located.dir,
    generationId: manifest.id,
    mode,
    ramBytes: manifest.sizes.ramBytes,
    restoredAt: new Date(verbStartMs).toISOString(),
    verb: identifyProcess(process.pid)!,
    qmpSocket: plan.qmpSocket,
    ...(plan.consoleSocket !== undefined && { consoleSocket: plan.consoleSocket }),
  };
}
