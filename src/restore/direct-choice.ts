/** Whether a VM's main memory can be filled directly, and where it lies; or why that cannot be. */
import { closeSync } from 'node:fs';
import { VmckptError } from '../errors.js';
import { hasAddon, pidfdGetfd, pidfdOpen } from '../native/index.js';
import type { RamBlock } from '../pages/layout.js';
import { locateMainMemory, type BlockAddress } from '../qemu/guest-memory.js';
import { findVhostUser } from '../qemu/on-demand.js';
import type { QmpClient } from '../qemu/qmp.js';

export type PathWish = 'auto' | 'direct' | 'stream';

export interface DirectChoice {
  readonly memory?: BlockAddress;
  /** Undefined when the user has asked for the stream. */
  readonly whyNot?: string;
}

export interface DirectWish {
  readonly path: PathWish;
  readonly mode: 'lazy' | 'eager';
  readonly args: readonly string[];
  readonly blocks: readonly RamBlock[];
}

/** @throws VmckptError DIRECT_REFUSED when the user insists on it */
export async function chooseDirectMemory(qmp: QmpClient, wish: DirectWish): Promise<DirectChoice> {
  if (wish.path === 'stream') return {};
  const choice = await examine(qmp, wish);
  if (wish.path === 'direct' && choice.whyNot !== undefined)
    throw new VmckptError('DIRECT_REFUSED', `the memory cannot be filled directly: ${choice.whyNot}`, {
      hint: "Without --path direct it goes through QEMU's stream, which is slower.",
    });
  return choice;
}

async function examine(qmp: QmpClient, { mode, args, blocks }: DirectWish): Promise<DirectChoice> {
  if (!hasAddon()) return { whyNot: 'that needs the native addon, which is missing' };
  if (findVhostUser(args) !== undefined) return { whyNot: 'a vhost-user device writes to it without QEMU' };
  const memory = await locateMainMemory(qmp, blocks);
  if (memory === undefined) return { whyNot: 'it is not one piece of memory' };
  if (mode === 'eager' && !memory.isFresh) return { whyNot: 'it is a file, which may not be empty' };
  if (!mayTrace(memory.pid)) return { whyNot: 'this user may not trace QEMU (root and its parent may)' };
  return { memory };
}

function mayTrace(pid: number): boolean {
  const pidfd = pidfdOpen(pid);
  try {
    closeSync(pidfdGetfd(pidfd, 0));
    return true;
  } catch {
    return false;
  } finally {
    closeSync(pidfd);
  }
}
