/** `vmckpt stop NAME…` */
import { Argument, type Command } from 'commander';
import { EXIT_CODES, VmckptError } from '../errors.js';
import { stopVm, type StopReport } from '../vms/stop.js';
import { contextOf, verb } from './verb.js';

export function stopCommand(): Command {
  return verb('stop', 'End VMs that vmckpt has restored. Their checkpoints stay.', [
    'failed',
    'usage',
    'partial',
    'notFound',
    'locked',
    'notPermitted',
  ])
    .addArgument(new Argument('<vm-name...>', 'names of VMs, as vmckpt ps shows them'))
    .action(async (names: string[], _flags: object, command: Command) => {
      const { output } = contextOf(command);
      const stopped: StopReport[] = [];
      const errors: [name: string, error: VmckptError][] = [];
      for (const name of new Set(names)) {
        try {
          stopped.push(await stopVm(name));
        } catch (error) {
          if (!(error instanceof VmckptError)) throw error;
          errors.push([name, error]);
        }
      }
      if (stopped.length === 0) throw errors[0]![1];
      if (errors.length > 0) process.exitCode = EXIT_CODES.partial;
      const failed = errors.map(([name, { code, message, hint }]) => ({ name, code, message, hint }));
      const text = [...stopped.map(describe), ...failed.map(({ message }) => `${message}.`)];
      output.result(names.length === 1 ? stopped[0] : { stopped, failed }, text.join('\n'));
    });
}

function describe({ name, endedBy, qemuPid }: StopReport): string {
  return `${name} ${endedBy === null ? 'had ended already' : `ended (process ${qemuPid}, by ${endedBy})`}.`;
}
