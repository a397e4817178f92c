/** Finds QEMUs whose verb died before it could record that they run, by their command lines. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { identifyProcess, processesOfSession, type ProcessIdentity } from '../util/process-identity.js';

const MONITOR = /^socket,id=vmckpt-monitor,path=((?:[^,]|,,)+)\/qmp\.sock,/;

/** The QEMU that was told to listen there. The socket itself is no proof: QEMU may not listen yet, or not answer. */
export function findListener(socket: string): ProcessIdentity | undefined {
  const told = `${socket.replaceAll(',', ',,')},server=on`;
  const pid = readdirSync('/proc').find(
    (entry) => /^\d+$/.test(entry) && commandLineOf(entry).some((argument) => argument.includes(told)),
  );
  return pid === undefined ? undefined : identifyProcess(Number(pid));
}

/**
 * A keeper that is killed while it starts QEMU leaves a child that has the keeper's command line until it becomes
 * QEMU.
 */
export function hasLeftProcesses(keeper: ProcessIdentity | undefined): boolean {
  return keeper !== undefined && processesOfSession(keeper).length > 0;
}

/** A restored VM whose folder was deleted. */
export interface LostVm {
  readonly name: string;
  readonly pid: number;
}

/** Recognizes them by the monitor in the VM's folder, which every restore gives to QEMU. */
export function findLostVms(runtimeDirs: readonly string[]): LostVm[] {
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry));
  return pids.flatMap((pid) => {
    const [, directory = ''] =
      commandLineOf(pid)
        .map((argument) => MONITOR.exec(argument))
        .find((match) => match !== null) ?? [];
    const folder = directory.replaceAll(',,', ',');
    const isOurs = runtimeDirs.some((root) => path.dirname(folder) === path.join(root, 'vms'));
    return isOurs && !existsSync(folder) ? [{ name: path.basename(folder), pid: Number(pid) }] : [];
  });
}

/** Empty for a process that has just ended, or that this user may not see. */
function commandLineOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}
