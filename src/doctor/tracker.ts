/** By what a save may find out which pages a running VM writes. */
import { bestTracker } from '../capture/open-tracker.js';
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
