/** `vmckpt logs NAME` */
import { Argument, type Command } from 'commander';
import { readVmLogs, type TransferLogLine, type VmLogs } from '../vms/logs.js';
import { printable } from './text.js';
import { contextOf, verb } from './verb.js';

export function logsCommand(): Command {
  return verb('logs', 'Show the logs of a restored VM’s memory transfer and of its QEMU.', [
    'failed',
    'usage',
    'notFound',
    'notPermitted',
  ])
    .addArgument(new Argument('<vm-name>', 'the name of the VM, as vmckpt ps shows it'))
    .action((name: string, _flags: object, command: Command) => {
      const { output } = contextOf(command);
      const logs = readVmLogs(name);
      if (logs.transfer.length + logs.qemu.length === 0) output.message(`${name} has logged nothing yet.`);
      output.result(logs, describe(logs));
    });
}

function describe({ transfer, qemu }: VmLogs): string {
  return [
    ...transfer.map((line) => `transfer: ${printable(formatEntry(line))}`),
    ...qemu.map((line) => `qemu: ${printable(line)}`),
  ].join('\n');
}

/** The fields that pino puts into every entry, its message aside. */
const COMMON_FIELDS: ReadonlySet<string> = new Set(['level', 'time', 'pid', 'msg']);

function formatEntry(line: TransferLogLine): string {
  if (typeof line === 'string') return line;
  const { time, msg, err } = line as { time?: unknown; msg?: unknown; err?: { message?: unknown } };
  const details = Object.entries(line)
    .filter(([key]) => !COMMON_FIELDS.has(key) && key !== 'err')
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`);
  const parts = [
    ...(typeof time === 'number' ? [new Date(time).toISOString()] : []),
    ...(typeof msg === 'string' ? [msg] : []),
    ...(typeof err?.message === 'string' ? [`(${err.message})`] : []),
    ...details,
  ];
  return parts.join(' ');
}
