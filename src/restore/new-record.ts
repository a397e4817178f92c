/** The record of a VM that is about to be started. */
import type { LaunchPlan } from '../launch/launch-plan.js';
import { identifyProcess, type ProcessIdentity } from '../util/process-identity.js';
import { RECORD_VERSION, type VmRecord } from '../vms/records.js';
import type { Attempt, PlannedAttempt } from './attempt.js';
import { makePlaces } from './make-places.js';

/**
 * From here on the record holds the VM's name, and the claim is not needed.
 * @param keeper outlives the verb
 */
export function putOnRecord<A extends Attempt>(
  attempt: A,
  plan: LaunchPlan,
  keeper?: ProcessIdentity,
): A & PlannedAttempt {
  const { options, folder, claim } = attempt;
  makePlaces(folder, plan);
  for (const note of plan.notes) options.onMessage(note);
  const record = { ...newRecord(attempt, plan), ...(keeper && { keeper }) };
  folder.write(record);
  claim.release();
  return { ...attempt, plan, record };
}

/** What is known about a VM before its QEMU is started. */
function newRecord({ options, located, manifest, folder, verbStartMs }: Attempt, plan: LaunchPlan): VmRecord {
  return {
    version: RECORD_VERSION,
    name: folder.name,
    ...(folder.name !== located.name && { checkpoint: located.name }),
    generation: located.number,
    generationDir: located.dir,
    generationId: manifest.id,
    ...(located.elsewhere && { elsewhere: located.elsewhere }),
    mode: options.mode,
    ramBytes: manifest.sizes.ramBytes,
    restoredAt: new Date(verbStartMs).toISOString(),
    verb: identifyProcess(process.pid)!,
    qmpSocket: plan.qmpSocket,
    ...(plan.consoleSocket !== undefined && { consoleSocket: plan.consoleSocket }),
  };
}
