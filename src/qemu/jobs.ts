/**
 * Jobs that QEMU runs alongside the VM. A checkpoint does not hold them: after a restore a nearly complete mirror, or
 * a commit that has moved half of its data, would be silently gone. Each type has one decision; unknown types are
 * refused by name.
 */
import * as v from 'valibot';
import type { SaveBlocker } from './save-blocker.js';
import type { QmpClient } from './qmp.js';

const Jobs = v.array(v.object({ id: v.string(), type: v.string(), status: v.string() }));
type Job = v.InferOutput<typeof Jobs>[number];

/** The job has ended, and only its result was not read yet. */
const OVER: readonly string[] = ['concluded', 'null'];
/** The job makes an image that no disk of the VM uses. */
const HARMLESS: readonly string[] = ['create'];

const DOES: Readonly<Record<string, string>> = {
  commit: 'moves the data of a disk into the image below',
  stream: 'moves the data of the image below into a disk',
  mirror: 'copies a disk that the VM writes to',
  backup: 'copies a disk as it was at one instant',
  amend: 'changes the options of an image',
  'snapshot-save': 'saves a snapshot of the VM into its disks',
  'snapshot-load': 'sets the VM back to a snapshot',
  'snapshot-delete': 'deletes a snapshot',
};

export async function jobsUnderWay(qmp: QmpClient): Promise<SaveBlocker[]> {
  const jobs = await qmp.query(Jobs, 'query-jobs');
  return jobs.filter(({ type, status }) => !OVER.includes(status) && !HARMLESS.includes(type)).map(blockerOf);
}

function blockerOf({ id, type, status }: Job): SaveBlocker {
  const does = DOES[type];
  return {
    code: 'VM_BUSY',
    message: `the job "${id}" (${type}, ${status}) ${does ?? 'is under way'}, and a restored VM would not have it`,
    hint: 'Wait until it has ended, or end it with job-cancel or job-complete in the monitor.',
  };
}
