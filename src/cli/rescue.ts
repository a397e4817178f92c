/** `vmckpt rescue PID` */
import { Argument, type Command } from 'commander';
import { VmckptError } from '../errors.js';
import { rescue, type RescueReport } from '../save/rescue.js';
import { contextOf, interruptible, option, verb } from './verb.js';

const SUMMARY = 'Free a VM that a broken background snapshot has frozen.';
const DESCRIPTION = `${SUMMARY}

When the receiver of a live save dies, QEMU 7.2 leaves the memory of the VM write-protected: the VM hangs \
while QEMU reports "running". This removes the protection, and ends the tracking of a save --track. It does not harm a healthy VM, but it breaks a live \
save that another program than vmckpt is running.`;

export function rescueCommand(): Command {
  return verb('rescue', DESCRIPTION, ['failed', 'usage', 'notFound', 'locked', 'notPermitted', 'interrupted'])
    .summary(SUMMARY)
    .addArgument(new Argument('<pid>', 'process id of QEMU').argParser(parsePid))
    .addOption(
      option(
        '--qmp <socket>',
        "QEMU's QMP socket: also switches off settings that were left on, and resumes the VM",
      ),
    )
    .action(async (pid: number, flags: { readonly qmp?: string }, command: Command) => {
      const { output } = contextOf(command);
      const report = await rescue({
        pid,
        qmpSocket: flags.qmp,
        onMessage: (text) => output.message(text),
        signal: interruptible(output, 'Interrupted.').signal,
      });
      output.result(report, describe(report));
      if (!report.settingsPutRight && report.regions > 0)
        output.message(
          `Before the next save switch background-snapshot off: vmckpt rescue ${pid} --qmp /path/to/qmp.sock`,
        );
    });
}

function describe({ pid, descriptors, regions, trackingEnded, settingsPutRight }: RescueReport): string {
  const tracking = trackingEnded ? [`What process ${pid} writes is no longer tracked (save --track).`] : [];
  const freed =
    regions > 0
      ? `Took the write protection off ${regions} memory ${regions === 1 ? 'region' : 'regions'} of process ${pid}: its VM can write again.`
      : `Nothing of process ${pid} was write-protected (${descriptors} userfaultfds looked at): no snapshot has frozen it.`;
  const settings = settingsPutRight ? ['Its migration settings are in order.'] : [];
  return [...tracking, freed, ...settings].join('\n');
}

/** @throws VmckptError USAGE */
function parsePid(text: string): number {
  const pid = Number(text);
  if (/^\d+$/.test(text) && pid >= 1 && pid <= 0x7fff_ffff) return pid;
  throw new VmckptError('USAGE', `"${text}" is not a process id`, { hint: 'List them with pgrep -a qemu.' });
}
