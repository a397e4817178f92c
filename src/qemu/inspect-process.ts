/** What /proc says of a QEMU: who runs it, how it was started, and where its relative paths lead. */
import { readFileSync, statSync } from 'node:fs';
import { VmckptError } from '../errors.js';
import { identifyProcess, isAlive, startOfThread, type ProcessIdentity } from '../util/process-identity.js';
import type { ProcessContext } from '../util/process-schema.js';
import { asOwner } from '../util/rights.js';
import { parseCommandLine, toArgv } from './command-line.js';
import { withoutConfigFiles } from './config-file.js';
import { namedFiles } from './named-files.js';
import { differingPlaces, placesOf, readProcessContext } from './process-context.js';
import type { QmpClient } from './qmp.js';
import { findStartFolder, lostImages } from './start-folder.js';

/** The socket's peer; if that only passed the socket on (libvirt), the owner of the vCPU thread. */
export function pidOf(qmp: QmpClient, vcpuThread: number | undefined): number {
  const peer = qmp.peerPid();
  if (vcpuThread === undefined || exists(`/proc/${peer}/task/${vcpuThread}`)) return peer;
  // A QEMU in another PID namespace reports thread ids that mean other processes here.
  if (differingPlaces(placesOf(peer), placesOf('self')).length > 0) return peer;
  try {
    const group = /^Tgid:\s*(\d+)$/m.exec(readFileSync(`/proc/${vcpuThread}/status`, 'latin1'));
    return group === null ? peer : Number(group[1]);
  } catch {
    return peer;
  }
}

/** As in VmDescription. */
interface ProcessFacts extends ProcessIdentity {
  readonly isOwn: boolean;
  readonly binary: string;
  readonly args: string[];
  readonly cwd: string | undefined;
  readonly context: ProcessContext;
}

interface Known {
  readonly qmpSocket: string;
  readonly images: readonly string[];
  readonly vcpuThread: number | undefined;
}

/** @throws VmckptError NOT_PERMITTED, QEMU_DIED, FAILED where the process is not visible; as withoutConfigFiles() */
export function readProcess(pid: number, { qmpSocket, images, vcpuThread }: Known): ProcessFacts {
  const identity = identifyProcess(pid);
  if (identity === undefined)
    throw new VmckptError('FAILED', `QEMU's process ${pid} is not visible from here`, {
      hint: 'Run vmckpt on the host (and in the pid namespace) where QEMU runs.',
    });
  try {
    const isOwn = runsAsThisUser(pid);
    const [binary = '', ...written] = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      .replace(/\0$/, '')
      .split('\0');
    const given = parseCommandLine(written);
    const hasLeft = given.some(({ name }) => name === 'daemonize');
    const surroundings = { pid, files: namedFiles(given), images, hasLeft, qmpSocket };
    const cwd = findStartFolder(surroundings);
    // vCPU threads start after all files of options have been read.
    const readAtMs = vcpuThread === undefined ? undefined : startOfThread(pid, vcpuThread);
    const options = withoutConfigFiles(given, { cwd, readAtMs });
    const args = toArgv(options);
    const context = readProcessContext(pid, options);
    // In another namespace their names mean nothing here.
    const lost = context.elsewhere.length === 0 ? lostImages(surroundings, cwd) : [];
    return { ...identity, isOwn, binary, args, cwd, context: { ...context, lostImages: lost } };
  } catch (cause) {
    if (cause instanceof VmckptError) throw cause;
    if (!isAlive(identity))
      throw new VmckptError('QEMU_DIED', `QEMU (process ${pid}) ended while it was being inspected`, {
        cause,
      });
    const hint = asOwner('the user who started QEMU');
    throw new VmckptError('NOT_PERMITTED', `no permission to read the command line of process ${pid}`, {
      hint,
      cause,
    });
  }
}

/**
 * Compares its real, effective, saved and file system user ids (proc(5)), because a process can rewrite its command
 * line in /proc.
 */
function runsAsThisUser(pid: number): boolean {
  const ids = /^Uid:\s*(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? '';
  return ids.split('\t').every((id) => Number(id) === process.getuid?.());
}

function exists(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false }) !== undefined;
}
