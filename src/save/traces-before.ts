/**
 * Which of QEMU's trace events are enabled, as the generation before has it. QEMU has thousands, and does nothing else
 * while it lists them: a VM that is saved every second would notice.
 */
import type { Setting } from '../qemu/drift/settings.js';
import { Store } from '../store/store.js';
import { VmckptError } from '../errors.js';
import type { ProcessIdentity } from '../util/process-identity.js';
import { isRoutine } from './routine.js';
import { isTracked } from './tracked-vms.js';

interface Subject {
  readonly storeDir: string;
  readonly name: string;
  /** Nothing is to be taken over. */
  readonly full?: boolean;
}

/** @returns undefined where QEMU is to be asked: also of a VM that is not tracked, and after another QEMU's generation */
export async function tracesBefore(
  { storeDir, name, full = false }: Subject,
  { pid, startTicks }: ProcessIdentity,
): Promise<readonly Setting[] | undefined> {
  if (full || !isTracked({ pid, startTicks })) return undefined;
  try {
    const { manifest } = await (await Store.open(storeDir)).locate(name);
    const { generation, qemu, settings = [] } = manifest;
    const isSame = qemu.process?.pid === pid && qemu.process.startTicks === startTicks;
    if (!isSame || !isRoutine(generation + 1)) return undefined;
    return settings
      .filter(({ kind }) => kind === 'trace')
      .map(({ kind, id, name: setting, value }) => ({ kind, id, name: setting, value }));
  } catch (error) {
    if (error instanceof VmckptError) return undefined; // a save will say what is wrong with the store
    throw error;
  }
}
