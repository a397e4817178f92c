/** `vmckpt doctor` */
import type { Command } from 'commander';
import { doctor, type Finding } from '../doctor/doctor.js';
import { EXIT_CODES } from '../errors.js';
import { printable } from './text.js';
import { contextOf, interruptible, option, verb } from './verb.js';

export function doctorCommand(): Command {
  return verb('doctor', 'Examine this host: what works, what does not, and the command that fixes it.', [
    'failed',
    'usage',
    'partial',
    'interrupted',
  ])
    .addOption(option('--qemu <binary>', 'the QEMU binary to use'))
    .action(async (flags: { readonly qemu?: string }, command: Command) => {
      const { output, storeDir } = contextOf(command);
      const { signal } = interruptible(output, 'Interrupted.');
      const findings = await doctor({ storeDir, qemuBinary: flags.qemu, signal });
      const usable = findings.every(({ status }) => status === 'ok');
      output.result({ usable, checks: findings }, findings.map(describe).join('\n'));
      if (!usable) process.exitCode = EXIT_CODES.partial;
    });
}

const INDENT = ' '.repeat(6);

function describe({ status, title, found, meaning, remedy }: Finding): string {
  return [
    `${status.padEnd(4)}  ${title}: ${printable(found)}`,
    ...(meaning === undefined ? [] : [`${INDENT}${printable(meaning)}`]),
    ...(remedy === undefined ? [] : [`${INDENT}→ ${printable(remedy)}`]),
  ].join('\n');
}
