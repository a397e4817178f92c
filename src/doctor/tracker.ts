/** By what a save may find out which pages a running VM writes, and of which VMs that is noted now. */
import { bestTracker } from '../capture/open-tracker.js';
import { labelOf, listTrackedVms, type TrackedVm } from '../save/tracked-vms.js';
import type { Finding } from './finding.js';

const FOUND = {
  'write-protection': "the kernel's asynchronous write protection",
  'soft-dirty': 'soft-dirty bits',
  none: 'none',
} as const;

export function examineTracker(): Finding {
  const { kind, shortfall } = bestTracker();
  const check = { check: 'tracker', title: 'Write tracking' };
  if (shortfall === undefined) return { ...check, status: 'ok', found: FOUND[kind] };
  return {
    ...check,
    status: 'warn',
    found: `${FOUND[kind]}; ${shortfall}`,
    meaning:
      kind === 'none'
        ? 'Running VMs are saved through the migration stream of QEMU, all of their memory each time.'
        : 'A page in a huge page counts as written as soon as one of its neighbors is.',
    remedy: 'Use Linux 6.7 or later.',
  };
}

/** One finding per VM that is tracked between its saves. */
export async function listTracked(): Promise<Finding[]> {
  return (await listTrackedVms()).map(findingOf);
}

function findingOf(vm: TrackedVm): Finding {
  const { pid, holderPid, state, note } = vm;
  const check = { check: 'tracked', title: 'Tracked VM' };
  const keeps = `process ${holderPid} keeps track of what the VM with process ${pid} writes`;
  if (state === 'stopped')
    return {
      ...check,
      status: 'warn',
      found: `${keeps}, but it is stopped, by a signal or a debugger`,
      meaning: 'The next save of the VM ends that process, and reads all memory.',
      remedy: `kill -CONT ${holderPid}`,
    };
  const since =
    state === 'in use' ? 'a save has it now' : `since ${labelOf(vm)}${note ? `, ${note.since}` : ''}`;
  const end = note === undefined ? '' : `vmckpt save --untrack qmp:/path/to/its/qmp.sock ${note.name}, or: `;
  const read = note === undefined ? 'all memory, because the last one failed' : 'only that';
  return {
    ...check,
    status: 'ok',
    found: `${keeps} (${since})`,
    meaning: `Its next save reads ${read}. Until it ends, QEMU makes no background snapshot of the VM.`,
    remedy: `${end}kill ${holderPid}`,
  };
}
