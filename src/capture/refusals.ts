/** VMs that only QEMU's own migration saves. */
import { parseCommandLine } from '../qemu/command-line.js';
import type { VmDescription } from '../qemu/inspect.js';
import { captureRefused } from './refused.js';

/** Their memory is pinned for as long as they live: what they write is noted nowhere. */
const PINNING = /\b(vhost-vdpa|nvme:\/\/|driver=nvme|virtio-blk-vhost-|nvme-io_uring|virtio-blk-vfio-)/;
/** Whether their link is cut is told by a migration alone (src/qemu/drift/links.ts). */
const SILENT_CARDS: readonly string[] = ['vmxnet3', 'pcnet'];

/** @throws VmckptError CAPTURE_REFUSED */
export function refuseCapture(vm: Pick<VmDescription, 'args' | 'deviceTypes'>): void {
  for (const { name, value = '' } of parseCommandLine(vm.args)) {
    if (name === 'global' && /^(driver=)?migration\b/.test(value))
      throw captureRefused(`-global ${value} changes what a migration holds`);
    if (PINNING.test(value))
      throw captureRefused(`-${name} ${value} lets a device of the host write to memory`);
  }
  const card = SILENT_CARDS.find((type) => (vm.deviceTypes[type] ?? 0) > 0);
  if (card !== undefined)
    throw captureRefused(`a card of the model ${card} tells of its link in a migration only`);
}
