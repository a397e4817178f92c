/** What to do about a restored VM whose memory is not complete. */
import { isAlive, type ProcessIdentity } from '../util/process-identity.js';
import { listVmFolders } from './folder.js';
import { statusOf, type VmStatus } from './status.js';

const ADVICE: Partial<Record<VmStatus, (name: string) => string>> = {
  'transfer-lost': (name) => `Nothing serves its memory. Go on with: vmckpt restore --resume ${name}`,
  damaged: (name) =>
    `It is halted at a damaged page. End it (vmckpt stop ${name}), then restore another generation.`,
  abandoned: (name) =>
    `vmckpt restore was killed before the VM ran. Remove what is left: vmckpt stop ${name}`,
};

/** Undefined when nothing is wrong. */
export function adviceOn({
  name,
  status,
}: {
  readonly name: string;
  readonly status: VmStatus;
}): string | undefined {
  return ADVICE[status]?.(name);
}

/** How to end the transfer of this QEMU's memory. Undefined when vmckpt has not restored it, or it is complete. */
export function adviceOnTransfer(qemu: ProcessIdentity): string | undefined {
  for (const folder of listVmFolders()) {
    const record = folder.read();
    if (record?.qemu?.pid !== qemu.pid || !isAlive(record.qemu)) continue;
    const status = statusOf(record, folder.readTransfer());
    if (status === 'serving') return `Wait until vmckpt ps calls "${folder.name}" complete.`;
    return adviceOn({ name: folder.name, status });
  }
  return undefined;
}
