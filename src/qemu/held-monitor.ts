/**
 * A monitor connection that outlives its client. While a vCPU, or QEMU's main loop, waits for a page, QEMU cannot
 * negotiate with a new client, but it still answers out-of-band commands on a connection that was negotiated before. So
 * QEMU itself gets a duplicate of the client's end (getfd). After the client's death, its successor takes the duplicate
 * from QEMU's descriptor table (pidfd_getfd) and recovers the VM through it.
 */
import { closeSync, fstatSync, readdirSync, readlinkSync } from 'node:fs';
import { VmckptError } from '../errors.js';
import { hasAddon, perlMayTake, perlTaking, pidfdGetfd, pidfdOpen, taken } from '../native/index.js';
import { QmpClient } from './qmp.js';
import { asRoot } from '../util/rights.js';

const NAME = 'vmckpt-monitor';

export interface HeldMonitor {
  /** QEMU's process. */
  readonly pid: number;
  /** The client's end of the connection, by the inode of its socket. */
  readonly inode: number;
}

/** Lends a client's connection to QEMU. @returns undefined if this process might not get it back (ptrace rights) */
export async function holdMonitor(client: QmpClient): Promise<HeldMonitor | undefined> {
  const fd = client.descriptor();
  const held = { pid: client.peerPid(), inode: fstatSync(fd).ino };
  await client.execute('getfd', { fdname: NAME }, { fd });
  if (mayTake(held)) return held;
  await releaseMonitor(client);
  return undefined;
}

/** Ends the loan: from here on the connection ends with its client. */
export async function releaseMonitor(client: QmpClient): Promise<void> {
  await client.execute('closefd', { fdname: NAME });
}

/**
 * A client on a held connection; undefined when it is gone. Only one process may use it at a time. Without the addon,
 * only a process that was started by `adopting()` can do this.
 * @throws VmckptError NOT_PERMITTED when it exists and this process may not take it: the monitor serves no other client
 *   until then
 */
export function adoptMonitor(held: HeldMonitor): QmpClient | undefined {
  const fd = hasAddon() ? takeDescriptor(held) : taken();
  if (fd !== undefined) return QmpClient.adopt(fd, `held by QEMU ${held.pid}`);
  if (findDescriptor(held) === undefined) return undefined;
  throw new VmckptError(
    'NOT_PERMITTED',
    `QEMU ${held.pid} keeps the monitor connection of a process that has died, and this one may not take it`,
    {
      hint: `That requires the right to ptrace QEMU. ${asRoot('Resume', 'CAP_SYS_PTRACE')}, or with kernel.yama.ptrace_scope=0.`,
    },
  );
}

/** Extends the command so that the program it runs can adopt a held connection. */
export function adopting(held: HeldMonitor | undefined, command: readonly string[]): readonly string[] {
  const target = hasAddon() || held === undefined ? undefined : findDescriptor(held);
  return target === undefined ? command : perlTaking(held!.pid, target, command);
}

function mayTake(held: HeldMonitor): boolean {
  if (!hasAddon()) return perlMayTake(held.pid, findDescriptor(held) ?? -1);
  const fd = takeDescriptor(held);
  if (fd !== undefined) closeSync(fd);
  return fd !== undefined;
}

/** Its descriptor number in QEMU. */
function findDescriptor({ pid, inode }: HeldMonitor): number | undefined {
  const folder = `/proc/${pid}/fd`;
  try {
    const target = readdirSync(folder).find((fd) => linkOf(`${folder}/${fd}`) === `socket:[${inode}]`);
    return target === undefined ? undefined : Number(target);
  } catch {
    return undefined;
  }
}

function takeDescriptor(held: HeldMonitor): number | undefined {
  const target = findDescriptor(held);
  if (target === undefined) return undefined;
  try {
    const pidfd = pidfdOpen(held.pid);
    try {
      return pidfdGetfd(pidfd, target);
    } finally {
      closeSync(pidfd);
    }
  } catch {
    return undefined;
  }
}

function linkOf(file: string): string | undefined {
  try {
    return readlinkSync(file);
  } catch {
    return undefined; // closed in the meantime
  }
}
