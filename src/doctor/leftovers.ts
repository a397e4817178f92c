/** What crashed runs have left: saves whose vmckpt died, VMs without a serving process, unfinished generations. */
import { VmckptError } from '../errors.js';
import { listVms, type VmSummary } from '../vms/list.js';
import { listTrackingLeftovers } from '../save/tracked-vms.js';
import { listAbandonedSaves, type AbandonedSave } from '../save/vm-journal.js';
import { Store } from '../store/store.js';
import { shellQuote } from '../util/shell.js';
import type { Finding } from './finding.js';

const CHECK = { check: 'leftovers', title: 'Leftovers of crashed runs' } as const;

/** One finding per leftover, or one that there is none. */
export async function findLeftovers(storeDir: string): Promise<Finding[]> {
  const findings = [
    ...listAbandonedSaves().map(findingOfSave),
    ...listTrackingLeftovers().map(findingOfTracking),
    ...listVms().flatMap(findingOfVm),
    ...(await inStore(storeDir, (store) => store.leftovers())).map(findingOfGeneration),
    ...(await inStore(storeDir, (store) => store.staleUses())).map(findingOfUse),
  ];
  return findings.length > 0 ? findings : [{ ...CHECK, status: 'ok', found: 'none' }];
}

function findingOfSave({
  pid,
  vmAlive,
  unsettled,
  isPaused,
  hasDescriptor,
  directory,
}: AbandonedSave): Finding {
  if (vmAlive && isPaused)
    return {
      ...CHECK,
      status: 'fail',
      found: `a save of the VM with process ${pid} was cut off, and has left the VM paused`,
      meaning: 'The VM is paused. The next vmckpt save resumes it.',
      remedy: `vmckpt rescue ${pid} --qmp /path/to/its/qmp.sock`,
    };
  if (vmAlive && unsettled)
    return {
      ...CHECK,
      status: 'fail',
      found: `a save of the VM with process ${pid} was cut off, and its migration settings are not as they were`,
      meaning: 'A save by another program could damage that VM. The next vmckpt save restores the settings.',
      remedy: `vmckpt rescue ${pid} --qmp /path/to/its/qmp.sock`,
    };
  if (hasDescriptor)
    return {
      ...CHECK,
      status: 'warn',
      found: `a save of the VM with process ${pid} was cut off, and QEMU has a descriptor of its folder ${directory}`,
      meaning: 'It does no harm. The next vmckpt save closes it, and removes the folder.',
      remedy: `vmckpt rescue ${pid} --qmp /path/to/its/qmp.sock`,
    };
  return {
    ...CHECK,
    status: 'warn',
    found: `a save was cut off, and its folder is left (process ${pid}${vmAlive ? '' : ', which has ended'})`,
    meaning: 'It does no harm.',
    remedy: `rm -r ${shellQuote(directory)}`,
  };
}

function findingOfTracking(socketPath: string): Finding {
  return {
    ...CHECK,
    status: 'warn',
    found: `${socketPath} is the socket of a process that has kept track of a VM's writes, and was killed`,
    meaning: 'It does no harm. The next save --track removes it.',
    remedy: `rm ${shellQuote(socketPath)}`,
  };
}

const TROUBLES: Partial<Record<VmSummary['status'], { meaning: string; remedy: (name: string) => string }>> =
  {
    'transfer-lost': {
      meaning: 'The VM hangs as soon as it needs a page that has not arrived.',
      remedy: (name) => `vmckpt restore --resume ${name}`,
    },
    abandoned: {
      meaning: 'A QEMU waits for a machine that will never be loaded.',
      remedy: (name) => `vmckpt stop ${name}`,
    },
    damaged: {
      meaning: 'The VM was halted at a damaged page of its checkpoint.',
      remedy: (name) => `vmckpt stop ${name}   (then restore another generation)`,
    },
  };

function findingOfVm({ name, generation, status }: VmSummary): Finding[] {
  const trouble = TROUBLES[status];
  if (trouble === undefined) return [];
  const found = `the restored VM ${name}@${generation} has the status ${status}`;
  return [{ ...CHECK, status: 'fail', found, meaning: trouble.meaning, remedy: trouble.remedy(name) }];
}

async function inStore(storeDir: string, look: (store: Store) => Promise<string[]>): Promise<string[]> {
  try {
    return await look(await Store.open(storeDir));
  } catch (error) {
    // The examination of the store reports this.
    if (error instanceof VmckptError) return [];
    throw error;
  }
}

function findingOfGeneration(directory: string): Finding {
  return {
    ...CHECK,
    status: 'warn',
    found: `${directory} was never finished`,
    meaning: 'It takes space. The next save of that name removes it.',
    remedy: `rm -r ${shellQuote(directory)}`,
  };
}

function findingOfUse(file: string): Finding {
  return {
    ...CHECK,
    status: 'warn',
    found: `${file} is the lock of a process that has died`,
    meaning: 'It does no harm. The next use or save of that checkpoint removes it.',
    remedy: `rm ${shellQuote(file)}`,
  };
}
