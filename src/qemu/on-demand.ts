/** What of a command line does not allow that a VM's memory comes on demand, after it runs. */
import { statfsSync, statSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { isOn, parseCommandLine, propertyOf, type Option } from './command-line.js';

/** Filesystems whose files can wait for their pages (userfaultfd). Source: linux/magic.h. */
const ON_DEMAND_MAGICS: readonly number[] = [0x0102_1994 /* tmpfs */, 0x9584_58f6 /* hugetlbfs */];

interface MemoryFile {
  readonly option: string;
  /** Absolute. For a folder QEMU makes a file of its own in it, without a name. */
  readonly path: string;
  /** What the guest writes goes into the file; otherwise QEMU only reads it. */
  readonly isShared: boolean;
}

/** @param cwd what relative paths in `args` are meant from */
function memoryFiles(args: readonly string[], cwd: string): MemoryFile[] {
  return parseCommandLine(args).flatMap((option) => {
    const file = pathOf(option);
    if (file === undefined) return [];
    const isShared = isOn(propertyOf(option, 'share'));
    return [{ option: `-${option.name} ${option.value}`, path: path.resolve(cwd, file), isShared }];
  });
}

function pathOf(option: Option): string | undefined {
  if (option.name === 'mem-path') return option.value;
  if (option.name !== 'object' || propertyOf(option, 'qom-type') !== 'memory-backend-file') return undefined;
  return propertyOf(option, 'mem-path');
}

/** The argument that gives a process beside QEMU the VM's memory, if there is one. */
export function findVhostUser(args: readonly string[]): string | undefined {
  return args.find((argument) => argument.includes('vhost-user'));
}

/** @throws VmckptError COMMAND_LINE_UNSUPPORTED when all memory has to be there before the VM runs */
export function refuseOnDemand(args: readonly string[], cwd: string): void {
  const vhostUser = findVhostUser(args);
  if (vhostUser !== undefined) refuse(vhostUser, 'its process would not wait for memory that is missing');
  for (const file of memoryFiles(args, cwd)) {
    const reason = whyNotOnDemand(file);
    if (reason !== undefined) refuse(file.option, reason);
  }
}

function refuse(argument: string, reason: string): never {
  throw new VmckptError('COMMAND_LINE_UNSUPPORTED', `${argument}: ${reason}`, {
    hint: 'Have all memory loaded before the VM runs: --mode eager.',
  });
}

function whyNotOnDemand({ path: file, isShared }: MemoryFile): string | undefined {
  const stat = statSync(file, { throwIfNoEntry: false });
  const place = stat === undefined ? path.dirname(file) : file;
  if (statSync(place, { throwIfNoEntry: false }) === undefined) return undefined; // QEMU will say so
  if (!ON_DEMAND_MAGICS.includes(statfsSync(place).type))
    return 'memory in a file comes on demand only on tmpfs and hugetlbfs';
  // QEMU empties its memory first, and the file below with it, which may be anybody's.
  if (!isShared && stat?.isFile() && stat.blocks > 0)
    return `a lazy restore would empty the file ${file}, which the VM only reads (share=off)`;
  return undefined;
}
