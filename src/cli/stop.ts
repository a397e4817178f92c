/** `vmckpt stop NAME` */
import { Argument, type Command } from 'commander';
import { stopVm } from '../restore/stop.js';
import { contextOf, verb } from './verb.js';

export function stopCommand(): Command {
  return verb('stop', 'End a VM that vmckpt has restored. Its checkpoint stays.', [
    'failed',
    'usage',
    'notFound',
    'locked',
    'notPermitted',
  ])
    .addArgument(new Argument('<vm-name>', 'the name of the VM, as vmckpt ps shows it'))
    .action(async (name: string, _flags: object, command: Command) => {
      const { output } = contextOf(command);
      const report = await stopVm(name);
      const { endedBy, qemuPid } = report;
      const how = endedBy === null ? 'had ended already' : `ended (process ${qemuPid}, by ${endedBy})`;
      output.result(report, `${name} ${how}.`);
    });
}
