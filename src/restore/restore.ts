/**
 * The story of a restore: find the checkpoint, refuse what is impossible, plan, and start QEMU with a serving process
 * (by-server.ts) or alone (by-mapping.ts). A failure before the VM runs leaves nothing behind. Once it runs, no failure
 * touches it.
 */
import path from 'node:path';
import { requireMachine } from '../checkpoint/manifest.js';
import { lacksUserfaultfd } from '../qemu/migration-control.js';
import { OnDemandRefusal } from '../qemu/on-demand.js';
import { requireName } from '../store/reference.js';
import { clearStaleUses } from '../store/generation-use.js';
import type { Generation } from '../store/generation.js';
import { nowMs } from '../timeline/clock.js';
import { debugSteps } from '../util/debug.js';
import { asRoot } from '../util/rights.js';
import { saysOnce } from '../util/says-once.js';
import { claimFolder } from '../vms/claim.js';
import { endAbandoned } from '../vms/stop.js';
import type { RestoreOptions } from './attempt.js';
import { restoreMapped } from './by-mapping.js';
import { startAndFill } from './by-server.js';
import { findGeneration } from './find-generation.js';
import { plainQemu } from './machine-host.js';
import { putOnRecord } from './new-record.js';
import { startParent } from './parents/start.js';
import { readGenerationAhead } from './read-ahead.js';
import type { RestoreReport } from './report.js';

/**
 * @throws VmckptError NO_CHECKPOINT, COMMAND_LINE_UNTRUSTED, COLLISION, DISKS_CHANGED, QEMU_FAILED_TO_START, QEMU_INCOMPATIBLE,
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

/** The message for a restore that cannot be lazy but can be eager; undefined for other errors. */
function whyEagerly(error: unknown): string | undefined {
  const what = 'the VM runs when all of its memory is there (--mode eager).';
  if (error instanceof OnDemandRefusal) return `${error.message}; ${what}`;
  if (!lacksUserfaultfd(error)) return undefined;
  return `QEMU may not use userfaultfd: ${what} ${asRoot('Run it', 'CAP_SYS_PTRACE')}, or set vm.unprivileged_userfaultfd=1 (sysctl), for a VM that runs at once.`;
}

async function restoreOnce(options: RestoreOptions): Promise<RestoreReport> {
  const verbStartMs = nowMs();
  const found = await findGeneration(options);
  try {
    return await restoreFound(options, found.generation, verbStartMs);
  } finally {
    found.release();
  }
}

async function restoreFound(
  options: RestoreOptions,
  located: Generation,
  verbStartMs: number,
): Promise<RestoreReport> {
  const step = debugSteps('restore');
  const { name, dir, manifest } = located;
  requireMachine(manifest);
  step(`found ${dir}, ${options.mode}`);
  const { vmName = name } = options;
  requireName(vmName, 'a VM');
  if (await endAbandoned(vmName))
    options.onMessage('An earlier restore died before its VM ran; its remains have been removed.');
  const { folder, claim } = claimFolder(vmName);
  let isLoaded = false;
  const onLoaded = () => void (isLoaded = true);
  const attempt = { options, located, manifest, folder, claim, verbStartMs, onLoaded };
  if (options.mode === 'map') return restoreMapped(attempt);
  // First of all: it opens the checkpoint while everything else is prepared.
  const wishes = options.mode === 'prefetch' ? options.prefetch : undefined;
  const parent = startParent({ folder, generation: located.ref, wishes });
  if (located.elsewhere === undefined) readGenerationAhead(dir, manifest, options.mode);
  try {
    const plan = await plainQemu.plan(attempt);
    const planned = putOnRecord(attempt, plan, parent.identity);
    step('QEMU is planned');
    return await startAndFill({ ...planned, parent });
  } catch (error) {
    if (!isLoaded) {
      await parent.kill();
      clearStaleUses(path.dirname(dir));
      folder.remove();
      claim.release();
    }
    throw error;
  } finally {
    parent.release();
  }
}
