/** VMs that could be saved, but not brought back as they were. */
import { VmckptError } from '../errors.js';
import type { VmDescription } from '../qemu/inspect.js';
import { losesMemoryInPrecopy, type SaveMethod } from './methods.js';
import { savedStateOf } from './run-states.js';

export interface RefusalOptions {
  readonly method: SaveMethod;
  readonly disksExternal: boolean;
}

/** @throws VmckptError DISKS_WRITABLE, QEMU_UNSUPPORTED, VM_STATE */
export function refuseUnsafe(vm: VmDescription, { method, disksExternal }: RefusalOptions): void {
  savedStateOf(vm.status, vm.version);
  refuseTemporaryDisks(vm);
  if (!disksExternal) refuseWritableDisks(vm);
  if (method === 'precopy') refuseLossyPrecopy(vm);
}

function refuseWritableDisks({ disks }: VmDescription): void {
  const writable = disks.filter(({ readOnly }) => !readOnly);
  if (writable.length === 0) return;
  const names = writable.map(({ device, node, file }) => `${device || node} (${file})`);
  throw new VmckptError(
    'DISKS_WRITABLE',
    `the VM writes to ${names.join(', ')}, and a checkpoint holds memory only`,
    {
      hint: 'To put the VM away, pass --quit --disks external: its disks stay as they are until it is restored. If it is to run on, snapshot its disks at the moment of the save and pass --disks external, or attach them read-only.',
    },
  );
}

/** Nobody can keep a disk that ends with QEMU: the restored VM would go on with the image below it. */
function refuseTemporaryDisks({ disks }: VmDescription): void {
  const names = disks
    .filter(({ temporary }) => temporary)
    .map(({ device, node, backingFile = '' }) => `${device || node} (${backingFile})`);
  if (names.length === 0) return;
  throw new VmckptError(
    'DISKS_WRITABLE',
    `what the VM writes to ${names.join(', ')} goes to a temporary file (-snapshot, snapshot=on) that is lost with QEMU`,
    {
      hint: 'A restored VM would find its disk as it was before: start it with an overlay of your own (qemu-img create -b), or write the changes back first (commit in the monitor) and restart it without snapshot.',
    },
  );
}

function refuseLossyPrecopy(vm: VmDescription): void {
  if (!losesMemoryInPrecopy(vm)) return;
  throw new VmckptError(
    'QEMU_UNSUPPORTED',
    `pre-copy loses memory in QEMU ${vm.version.text} with software emulation (tcg)`,
    {
      hint: 'Save with --live background-snapshot (the default) or --stop, or use QEMU 10.',
    },
  );
}
