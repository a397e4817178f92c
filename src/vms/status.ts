/** The status of a restored VM: from its records, and from which of its processes live. */
import { isAlive } from '../util/process-identity.js';
import type { TransferRecord, VmRecord } from './records.js';

const REPLACED_WITHIN_MS = 3_000;

/** `abandoned`: the restoring verb died before the VM ran, and now it never will. */
export type VmStatus =
  'starting' | 'serving' | 'complete' | 'transfer-lost' | 'damaged' | 'abandoned' | 'ended';

/**
 * A keeper (or, without one, the verb) replaces a dead process at once. If it has not done so by then, it has given
 * up.
 */
function isBeingReplaced({ keeper, verb }: VmRecord, { notedAtMs }: TransferRecord): boolean {
  return isAlive(keeper ?? verb) && Date.now() - (notedAtMs ?? 0) < REPLACED_WITHIN_MS;
}

export function statusOf(record: VmRecord, transfer: TransferRecord | undefined): VmStatus {
  const { qemu, keeper, verb, isUnderWay } = record;
  // Without a verb, a keeper still starts the QEMU that it was told to start, or ends; a transfer goes on, too.
  if (qemu === undefined)
    return isAlive(verb) || (keeper && isAlive(keeper)) || isUnderWay ? 'starting' : 'ended';
  if (!isAlive(qemu)) return 'ended';
  if (transfer === undefined) return isAlive(verb) || isUnderWay ? 'starting' : 'abandoned';
  if (transfer.status === 'serving' && (isAlive(transfer.process) || isBeingReplaced(record, transfer)))
    return 'serving';
  if (record.unattended && !transfer.loaded) return 'abandoned';
  return transfer.status === 'complete' || transfer.status === 'damaged' ? transfer.status : 'transfer-lost';
}
