/**
 * Jobs that QEMU runs beside the VM. A checkpoint does not hold them: after a restore a mirror that was nearly there, or a
 * commit that has half of its data moved, is gone without a word. One decision for each type; types that nobody knows
 * are refused by name.
 */
import * as v from 'valibot';
import type { SaveBlocker } from './save-blocker.js';
import type { QmpClient } from './qmp.js';

const Jobs = v.array(v.object({ id: v.string(), type: v.string(), status: v.string() }));
type Job = v.InferOutput<typeof Jobs>[number];

/** It has ended, and only waits for somebody to read how. */
const OVER: readonly string[] = ['concluded', 'null'];
/** It makes an image that no disk of the VM has. */
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
    hint: 'Wait until it has ended, or end it: job-cancel, or job-complete, in the monitor.',
  };
}
