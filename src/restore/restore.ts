/**
 * The story of a restore: find the checkpoint, refuse what cannot be, plan, and start QEMU and the serving process side by side
 * (by-server.ts), or QEMU alone (by-mapping.ts). Until the VM runs a failure leaves nothing behind; from then on the VM is left alone.
 */
import { requireMachine } from '../checkpoint/manifest.js';
import { planLaunch } from '../launch/launch-plan.js';
import { refuseCollisions } from '../qemu/collisions.js';
import { requireRoom } from '../qemu/memory-room.js';
import { lacksUserfaultfd } from '../qemu/migration-control.js';
import { OnDemandRefusal, refuseOnDemand } from '../qemu/on-demand.js';
import { requireName } from '../store/reference.js';
import { Store } from '../store/store.js';
import { nowMs } from '../timeline/clock.js';
import { debugSteps } from '../util/debug.js';
import { asRoot } from '../util/rights.js';
import { saysOnce } from '../util/says-once.js';
import { claimFolder } from '../vms/claim.js';
import type { VmRecord } from '../vms/records.js';
import { endAbandoned } from '../vms/stop.js';
import type { RestoreOptions } from './attempt.js';
import { restoreMapped } from './by-mapping.js';
import { startAndFill } from './by-server.js';
import { makePlaces } from './make-places.js';
import { newRecord } from './new-record.js';
import { startParent } from './parents/start.js';
import { imagesOf } from './same-disks.js';
import { readGenerationAhead } from './read-ahead.js';
import type { RestoreReport } from './report.js';

/**
 * @throws VmckptError NO_CHECKPOINT, COMMAND_LINE_UNTRUSTED, COLLISION, QEMU_FAILED_TO_START, QEMU_INCOMPATIBLE,
 * EXTENT_DAMAGED, INTERRUPTED and others
 */
export async function restore(options: RestoreOptions): Promise<RestoreReport> {
  const onMessage = saysOnce(options.onMessage);
  try {
    return await restoreOnce({ ...options, onMessage });
  } catch (error) {
    const why = options.mayFallBack === true ? whyEagerly(error) : undefined;
    if (why === undefined) throw error;
    onMessage(why);
    return restoreOnce({ ...options, onMessage, mode: 'eager' });
  }
}

/** What to tell about a restore that cannot be lazy, and can be eager. */
function whyEagerly(error: unknown): string | undefined {
  const what = 'the VM runs when all of its memory is there (--mode eager).';
  if (error instanceof OnDemandRefusal) return `${error.message}; ${what}`;
  if (!lacksUserfaultfd(error)) return undefined;
  return `QEMU may not use userfaultfd: ${what} ${asRoot('Run it', 'CAP_SYS_PTRACE')}, or set vm.unprivileged_userfaultfd=1 (sysctl), for a VM that runs at once.`;
}

async function restoreOnce(options: RestoreOptions): Promise<RestoreReport> {
  const verbStartMs = nowMs();
  const step = debugSteps('restore');
  const store = await Store.open(options.storeDir, { trustForeign: options.trustCommandLine });
  const located = await store.locate(options.reference);
  const { name, dir, manifest } = located;
  const judgeSeal = () => located.judgeSeal();
  requireMachine(manifest);
  step(`found ${dir}, ${options.mode}`);
  const { vmName = name, identity = 'original' } = options;
  requireName(vmName, 'a VM');
  if (await endAbandoned(vmName))
    options.onMessage('An earlier restore died before its VM ran; its remains have been removed.');
  const { folder, claim } = claimFolder(vmName);
  let isLoaded = false;
  const attempt = { options, manifest, folder, claim, verbStartMs, onLoaded: () => void (isLoaded = true) };
  if (options.mode === 'map') return restoreMapped({ ...attempt, located, judgeSeal });
  // First of all: it opens the checkpoint while everything else is prepared.
  const wishes = options.mode === 'prefetch' ? options.prefetch : undefined;
  const parent = startParent({ folder, generation: located.ref, wishes });
  readGenerationAhead(dir, options.mode);
  try {
    const plan = await planLaunch({ manifest, judgeSeal, directory: folder.directory }, options);
    makePlaces(folder, plan);
    for (const note of plan.notes) options.onMessage(note);
    if (options.mode !== 'eager') refuseOnDemand(plan.args, plan.cwd);
    await refuseCollisions(plan.args, {
      original: identity === 'original' ? manifest.qemu.process : undefined,
      cwd: plan.cwd,
      images: imagesOf(attempt),
    });
    const { ramBytes, nonZeroBytes: dataBytes } = manifest.sizes;
    const need = { vmCount: 1, ramBytes, dataBytes, isMapped: false, args: plan.args, cwd: plan.cwd };
    requireRoom(need, options.memoryRoom ?? 'required', options.onMessage);
    const record: VmRecord = {
      ...newRecord({ vmName, located, manifest, mode: options.mode, plan, verbStartMs }),
      ...(parent.identity && { keeper: parent.identity }),
    };
    folder.write(record);
    claim.release();
    step('QEMU is planned');
    return await startAndFill({ ...attempt, plan, record, parent });
  } catch (error) {
    if (!isLoaded) {
      await parent.kill();
      folder.remove();
      claim.release();
    }
    throw error;
  } finally {
    parent.release();
  }
}
