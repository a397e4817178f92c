/** `vmckpt ps` */
import type { Command } from 'commander';
import { adviceOn } from '../vms/advice.js';
import { listVms, type VmSummary } from '../vms/list.js';
import { withRunStates, type WithRunState } from '../vms/run-state.js';
import { table } from './text.js';
import { contextOf, verb } from './verb.js';

export function psCommand(): Command {
  return verb(
    'ps',
    'List the VMs that were restored on this machine, and how much of their memory is loaded.',
    ['failed', 'usage', 'notPermitted'],
  ).action(async (_flags: object, command: Command) => {
    const { output } = contextOf(command);
    const vms = await withRunStates(listVms());
    if (vms.length === 0 && !output.json) output.message('No restored VMs.');
    output.result({ vms }, describe(vms));
    for (const { name, status, error } of vms) {
      const advice = adviceOn({ name, status });
      if (advice !== undefined && !output.json)
        output.message(`${name}: ${error === null ? '' : `${error.message}. `}${advice}`);
    }
  });
}

function describe(vms: readonly (VmSummary & WithRunState)[]): string {
  if (vms.length === 0) return '';
  const rows = vms.map(
    ({ name, checkpoint, generation, status, runState, qemuPid, memoryShare, qmpSocket }) => [
      name,
      checkpoint === name ? String(generation) : `${checkpoint}@${generation}`,
      runState === null || runState === 'running' ? status : `${status}, ${runState}`,
      qemuPid === null ? '-' : String(qemuPid),
      memoryShare === null ? '-' : `${Math.floor(memoryShare * 100)}%`,
      qmpSocket,
    ],
  );
  return table(['NAME', 'GEN', 'STATUS', 'PID', 'MEMORY', 'QMP SOCKET'], rows);
}
