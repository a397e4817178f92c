/** A save by QEMU's own migration borrows the VM's migration settings. */
import {
  applyMigrationSettings,
  isUnwatchable,
  readMigrationSettings,
  withoutUserfaultfd,
  type MigrationSettings,
} from '../qemu/migration-control.js';
import { borrowedSettings, changedBy } from './borrowed-settings.js';
import type { StreamMethod } from './methods.js';
import { isLive } from './run-states.js';
import { endTracking, labelOf } from './tracked-vms.js';
import { transfer, type TransferOptions, type Transferred } from './transfer.js';
import type { JournalNote } from './vm-journal.js';

export interface Borrowed {
  readonly method: StreamMethod;
  readonly note: JournalNote;
  readonly wanted: MigrationSettings;
}

/** What the save will change, as it was: in the journal before the first of it is changed. */
export async function noteSettings(
  { qmp, journal, vm }: Pick<TransferOptions, 'qmp' | 'journal' | 'vm'>,
  method: StreamMethod,
): Promise<Borrowed> {
  const current = await readMigrationSettings(qmp);
  const wanted = borrowedSettings(method, current);
  const note = { wasRunning: isLive(vm.status), method, ...changedBy(wanted, current) };
  journal.write(note);
  return { method, note, wanted };
}

/** @throws VmckptError as transfer(), and USERFAULTFD_DENIED and the like where QEMU may not do that */
export async function lendAndTransfer(
  how: Omit<TransferOptions, 'method'>,
  { method, wanted }: Borrowed,
): Promise<Transferred> {
  await changeSettings(how, { method, wanted });
  return transfer({ ...how, method });
}

async function changeSettings(
  how: Pick<TransferOptions, 'qmp' | 'vm' | 'onMessage'>,
  { method, wanted }: Omit<Borrowed, 'note'>,
): Promise<void> {
  try {
    await applyMigrationSettings(how.qmp, wanted);
  } catch (error) {
    if (method !== 'background-snapshot') throw error;
    // All else that QEMU may have against it comes first, and leaves the tracking as it is.
    if (isUnwatchable(error) && (await endInTheWay(how))) return changeSettings(how, { method, wanted });
    throw withoutUserfaultfd(error, { what: 'QEMU may not be saved while it runs', instead: '--stop' });
  }
}

/** A mapping has one userfaultfd, and QEMU's background snapshot needs its own. @returns whether there was another */
async function endInTheWay({ vm, onMessage }: Pick<TransferOptions, 'vm' | 'onMessage'>): Promise<boolean> {
  const ended = await endTracking(vm);
  if (ended === undefined) return false;
  onMessage(
    `What the VM writes is no longer tracked (since ${labelOf(ended)}, by process ${ended.holderPid}): QEMU’s background snapshot cannot be beside that.`,
  );
  return true;
}
