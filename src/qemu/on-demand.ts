/** What in a command line rules out loading a VM's memory on demand, after it runs. */
import { statSync } from 'node:fs';
import { VmckptError } from '../errors.js';
import { parseCommandLine, propertyOf } from './command-line.js';
import { filesystemOf, memoryFiles, type MemoryFile } from './memory-files.js';

/** All memory has to be loaded before the VM runs. */
export class OnDemandRefusal extends VmckptError {}

/** The option that gives the VM's memory to another process, if there is one. */
export function findVhostUser(args: readonly string[]): string | undefined {
  const found = parseCommandLine(args).find((option) =>
    ['driver', 'type', 'qom-type'].some((key) => propertyOf(option, key)?.startsWith('vhost-user')),
  );
  return found && `-${found.name} ${found.value}`;
}

/** @throws OnDemandRefusal COMMAND_LINE_UNSUPPORTED */
export function refuseOnDemand(args: readonly string[], cwd: string): void {
  const vhostUser = findVhostUser(args);
  if (vhostUser !== undefined) refuse(vhostUser, 'its process would not wait for memory that is missing');
  for (const file of memoryFiles(args, cwd)) {
    const reason = whyNotOnDemand(file);
    if (reason !== undefined) refuse(file.option, reason);
  }
}

function refuse(argument: string, reason: string): never {
  throw new OnDemandRefusal('COMMAND_LINE_UNSUPPORTED', `${argument}: ${reason}`, {
    hint: 'Have all memory loaded before the VM runs: --mode eager.',
  });
}

function whyNotOnDemand({ path: file, isShared }: MemoryFile): string | undefined {
  if (filesystemOf(file) === 'other') return 'memory in a file comes on demand only on tmpfs and hugetlbfs';
  // QEMU first empties its memory, and with it the file, which may belong to others.
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!isShared && stat?.isFile() && stat.blocks > 0)
    return `a lazy restore would empty the file ${file}, which the VM only reads (share=off)`;
  return undefined;
}
