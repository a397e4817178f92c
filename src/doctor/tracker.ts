/** By what a save may find out which pages a running VM writes, and of which VMs that is noted now. */
import { bestTracker } from '../capture/open-tracker.js';
import { listTrackedVms, type TrackedVm } from '../save/kept-tracking.js';
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

function findingOf({ pid, holderPid, note }: TrackedVm): Finding {
  const since =
    note === undefined ? 'a save has it now' : `since ${note.name}@${note.generation}, ${note.since}`;
  const end = note === undefined ? '' : `vmckpt save --untrack qmp:/path/to/its/qmp.sock ${note.name}, or: `;
  return {
    check: 'tracked',
    title: 'Tracked VM',
    status: 'ok',
    found: `process ${holderPid} keeps track of what the VM with process ${pid} writes (${since})`,
    meaning: 'Its next save reads only that. Until it ends, QEMU makes no background snapshot of the VM.',
    remedy: `${end}kill ${holderPid}`,
  };
}
