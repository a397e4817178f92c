/** Whether vmckpt can fill a VM's memory directly, and where the memory is; or why not. */
import { closeSync } from 'node:fs';
import { VmckptError } from '../errors.js';
import { hasAddon, pidfdGetfd, pidfdOpen } from '../native/index.js';
import type { RamBlock } from '../pages/layout.js';
import { locateMemory } from '../qemu/guest-memory.js';
import { findVhostUser } from '../qemu/on-demand.js';
import type { QmpClient } from '../qemu/qmp.js';
import type { DirectlyFilled } from '../serving-protocol/order.js';

export type PathWish = 'auto' | 'direct' | 'stream';

export interface DirectChoice {
  readonly memory?: DirectlyFilled;
  /** Undefined when the user asked for the stream. */
  readonly whyNot?: string;
}

export interface DirectWish {
  readonly path: PathWish;
  readonly mode: 'lazy' | 'eager';
  readonly args: readonly string[];
  readonly blocks: readonly RamBlock[];
  readonly backendIds: readonly string[];
}

/** @throws VmckptError DIRECT_REFUSED when the user asked for the direct path and it is impossible */
export async function chooseDirectMemory(qmp: QmpClient, wish: DirectWish): Promise<DirectChoice> {
  if (wish.path === 'stream') return {};
  const choice = await examine(qmp, wish);
  if (wish.path === 'direct' && choice.whyNot !== undefined)
    throw new VmckptError('DIRECT_REFUSED', `the memory cannot be filled directly: ${choice.whyNot}`, {
      hint: "Without --path direct it goes through QEMU's stream, which is slower.",
    });
  return choice;
}

async function examine(
  qmp: QmpClient,
  { mode, args, blocks, backendIds }: DirectWish,
): Promise<DirectChoice> {
  if (!hasAddon()) return { whyNot: 'that needs the native addon, which is missing' };
  if (findVhostUser(args) !== undefined) return { whyNot: 'a vhost-user device writes to it without QEMU' };
  const pid = qmp.peerPid();
  if (!mayTrace(pid))
    return { whyNot: 'this user may not trace QEMU (that requires CAP_SYS_PTRACE, or being its parent)' };
  const located = await locateMemory(qmp, blocks, backendIds);
  if (located.length === 0) return { whyNot: 'it is not where QEMU says' };
  const usable = located.filter(({ isFresh }) => mode === 'lazy' || isFresh);
  if (usable.length === 0) return { whyNot: 'it is a file, which may not be empty' };
  return { memory: { pid, blocks: usable } };
}

/** False for a process that has ended. */
function mayTrace(pid: number): boolean {
  try {
    const pidfd = pidfdOpen(pid);
    try {
      closeSync(pidfdGetfd(pidfd, 0));
      return true;
    } finally {
      closeSync(pidfd);
    }
  } catch {
    return false;
  }
}
