/** `vmckpt ps` */
import type { Command } from 'commander';
import { adviceOn } from '../vms/advice.js';
import { listAbandonedSaves } from '../save/vm-journal.js';
import { listLostVms } from '../vms/folder.js';
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
    for (const { name, consoleSocket } of vms)
      if (consoleSocket !== null) output.detail(`${name}: its console is ${consoleSocket}`);
    for (const { name, status, error } of vms) {
      const advice = adviceOn({ name, status });
      if (advice !== undefined && !output.json)
        output.message(
          `${name}: ${error === null || status === 'abandoned' ? '' : `${error.message}. `}${advice}`,
        );
    }
    if (!output.json) for (const text of strays()) output.message(text);
  });
}

/** Things that need attention but are not listed VMs. */
function strays(): string[] {
  const lost = listLostVms().map(
    ({ name, pid }) =>
      `${name}: its folder was deleted, and nothing else is known about it. Its QEMU still runs; end it with: kill ${pid}`,
  );
  const paused = listAbandonedSaves()
    .filter(({ vmAlive, isPaused }) => vmAlive && isPaused)
    .map(
      ({ pid }) =>
        `Process ${pid}: a save was killed and left this VM paused. Let it run: vmckpt rescue ${pid} --qmp /path/to/its/qmp.sock`,
    );
  return [...lost, ...paused];
}

function describe(vms: readonly (VmSummary & WithRunState)[]): string {
  if (vms.length === 0) return '';
  const rows = vms.map(({ name, checkpoint, generation, qemuPid, memoryShare, qmpSocket, ...state }) => [
    name,
    checkpoint === name ? String(generation) : `${checkpoint}@${generation}`,
    describeState(state),
    qemuPid === null ? '-' : String(qemuPid),
    memoryShare === null ? '-' : `${Math.floor(memoryShare * 100)}%`,
    qmpSocket,
  ]);
  return table(['NAME', 'GEN', 'STATUS', 'PID', 'MEMORY', 'QMP SOCKET'], rows);
}

function describeState({
  status,
  waitsForSource,
  runState,
}: Pick<VmSummary & WithRunState, 'status' | 'waitsForSource' | 'runState'>): string {
  const more = [
    ...(waitsForSource ? ['waiting for its source'] : []),
    ...(runState === null || runState === 'running' ? [] : [runState]),
  ];
  return [status, ...more].join(', ');
}
