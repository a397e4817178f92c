/**
 * Brings a saved machine back: plans it from the manifest, refuses what is impossible, and starts it, ready to be
 * loaded. A plain QEMU is vmckpt's own child. Loading works the same way for every host.
 */
import { planLaunch, type LaunchPlan, type LaunchSubject } from '../launch/launch-plan.js';
import { refuseCollisions } from '../qemu/collisions.js';
import { launchQemu, type LaunchedQemu, type LaunchOptions } from '../qemu/launch.js';
import { requireRoom } from '../qemu/memory-room.js';
import { refuseOnDemand } from '../qemu/on-demand.js';
import { setWrittenFilesAside } from '../qemu/written-files.js';
import type { Attempt, PlannedAttempt } from './attempt.js';
import { imagesOf } from './same-disks.js';
import { requireUntouchedDisks } from './untouched-disks.js';

export interface StartWay extends Pick<LaunchOptions, 'start' | 'inheritedFds'> {
  /** A wrapper program that executes the emulator, which its arguments name. */
  readonly through?: string;
}

export interface MachineHost {
  /**
   * Changes nothing.
   * @throws VmckptError what planLaunch() and refuseOnDemand() throw, COLLISION, DISKS_CHANGED
   */
  plan(attempt: Attempt, memory?: LaunchSubject['memory']): Promise<LaunchPlan>;
  /**
   * Returns when the machine's monitor answers. On failure its process is gone.
   * @throws VmckptError what launchQemu() throws, NOT_PERMITTED
   */
  start(attempt: PlannedAttempt, way: StartWay): Promise<LaunchedQemu>;
}

export const plainQemu: MachineHost = {
  async plan({ options, located, manifest, folder }, memory) {
    const { identity = 'original', mode, memoryRoom = 'required', onMessage } = options;
    const judgeSeal = () => located.judgeSeal();
    const plan = await planLaunch({ manifest, judgeSeal, directory: folder.directory, memory }, options);
    const { args, cwd } = plan;
    if (mode !== 'eager' && mode !== 'map') refuseOnDemand(args, cwd);
    const original = identity === 'original' ? manifest.qemu.process : undefined;
    await refuseCollisions(args, { original, cwd, images: imagesOf({ manifest, options }) });
    requireUntouchedDisks(located, options);
    const { ramBytes, nonZeroBytes: dataBytes } = manifest.sizes;
    const isMapped = memory !== undefined;
    requireRoom({ vmCount: 1, ramBytes, dataBytes, isMapped, args, cwd }, memoryRoom, onMessage);
    return plan;
  },

  async start({ options, folder, plan }, { through, ...way }) {
    setWrittenFilesAside(plan, options.onMessage);
    return launchQemu({
      ...plan,
      ...(through !== undefined && { binary: through, args: [plan.binary, ...plan.args] }),
      ...way,
      logPath: folder.file('qemu.log'),
      qmpSocket: folder.file('qmp.sock'),
      signal: options.signal,
    });
  },
};
