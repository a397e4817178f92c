/** QEMUs whose verb died before it could note that they run: found by their command line. */
import { readdirSync, readFileSync } from 'node:fs';
import { identifyProcess, processesOfSession, type ProcessIdentity } from '../util/process-identity.js';

/** The QEMU that was told to listen there. Not asked through the socket: it may not be listening yet, or not answer. */
export function findListener(socket: string): ProcessIdentity | undefined {
  const told = `${socket.replaceAll(',', ',,')},server=on`;
  const pid = readdirSync('/proc').find(
    (entry) => /^\d+$/.test(entry) && commandLineOf(entry).some((argument) => argument.includes(told)),
  );
  return pid === undefined ? undefined : identifyProcess(Number(pid));
}

/** A keeper that is killed while it starts QEMU leaves a process with its own command line, until that becomes QEMU. */
export function hasLeftProcesses(keeper: ProcessIdentity | undefined): boolean {
  return keeper !== undefined && processesOfSession(keeper).length > 0;
}

/** Empty for a process that has just ended, or is not ours to see. */
function commandLineOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}
