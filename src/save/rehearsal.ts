/**
 * Every save rehearses its restore, while the VM still lives and nothing has been changed: what would be refused is found
 * by the code that would refuse it.
 */
import path from 'node:path';
import { mainMemoryName, RAW_MEMORY_FILE } from '../checkpoint/raw-memory.js';
import { VmckptError } from '../errors.js';
import { rehearseLaunch, type SavedVm } from '../launch/launch-plan.js';
import type { Problem } from '../launch/requirements.js';
import { characterDeviceOf } from '../qemu/character-device.js';
import { parseCommandLine, propertyOf } from '../qemu/command-line.js';
import type { VmDescription } from '../qemu/inspect.js';
import { opensMemoryReadOnly, type MappedMemory } from '../qemu/mapped-memory.js';
import { connectsAgain } from '../qemu/named-files.js';
import { runtimeDir } from '../util/runtime-dir.js';

export interface Rehearsal {
  readonly savedVm: SavedVm;
  readonly storeDir: string;
  /** Whether the raw memory file is made, for QEMU to map. */
  readonly isMapped: boolean;
}

/** @returns what a restore would refuse */
export async function rehearseRestore(
  vm: VmDescription,
  { savedVm, storeDir, isMapped }: Rehearsal,
): Promise<readonly Problem[]> {
  const directory = path.join(runtimeDir(), 'vms', savedVm.name);
  const file = path.resolve(storeDir, savedVm.name, '1', RAW_MEMORY_FILE);
  const memory = isMapped ? { memory: mappedMemory(vm, file) } : {};
  const problems = await rehearseLaunch({ manifest: savedVm, directory, ...memory });
  return [...problems, ...lostPeers(vm)];
}

/** Where QEMU connects to, and tries it once. */
function lostPeers({ args, chardevs }: VmDescription): Problem[] {
  const lost = parseCommandLine(args).filter((option) => {
    const device = option.name === 'chardev' ? characterDeviceOf(option) : undefined;
    const get = (key: string) => propertyOf(option, key);
    if (device?.backend !== 'socket' || device.server || connectsAgain(get)) return false;
    return chardevs.some(({ id, target }) => id === device.id && target.startsWith('disconnected:'));
  });
  if (lost.length === 0) return [];
  const names = lost.map(({ value }) => `-chardev ${value}`);
  return [
    {
      code: 'HOST_FILE_MISSING',
      message: `${names.join('; ')}: the program that it was connected to has closed the connection`,
      hint: 'Start that program before the restore, and the VM with reconnect= if it is to do without it.',
    },
  ];
}

function mappedMemory({ memoryBackends, ramBytes, version }: VmDescription, file: string): MappedMemory {
  const block = mainMemoryName(memoryBackends);
  return { file, block, sizeBytes: ramBytes, readOnly: opensMemoryReadOnly(version.text) };
}

/** @throws VmckptError with the code with which a restore would refuse it */
export function refuseUnrestorable(problems: readonly Problem[]): void {
  const [first] = problems;
  if (first === undefined) return;
  throw new VmckptError(first.code, `a restore would refuse this VM: ${messagesOf(problems)}`, {
    hint: `${first.hint} If you will restore it with a command line of your own: --own-command-line.`,
  });
}

export function messagesOf(problems: readonly Pick<Problem, 'message'>[]): string {
  return problems.map(({ message }) => message).join('; ');
}
