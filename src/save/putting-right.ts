/**
 * A VM's migration settings are borrowed, never kept: background-snapshot left on makes the next save by anybody
 * restart the guest in its middle. What a killed vmckpt has left behind is put right here, on every way in.
 */
import * as v from 'valibot';
import { removeDescriptors } from '../capture/device-capture.js';
import { VmckptError } from '../errors.js';
import { asRoot } from '../util/rights.js';
import { hasAddon, requireAddon, rescueUserfaultfd } from '../native/index.js';
import { isWriteProtected } from '../qemu/guest-memory.js';
import {
  applyMigrationSettings,
  isMigrating,
  queryMigrate,
  readMigrationSettings,
} from '../qemu/migration-control.js';
import { QmpClient } from '../qemu/qmp.js';
import { poll } from '../util/deadline.js';
import { identifyProcess } from '../util/process-identity.js';
import { release } from './held-migration.js';
import { takeBack } from './receiver.js';
import { VmJournal, type JournalNote } from './vm-journal.js';

const CONNECT_TIMEOUT_MS = 10_000;
const DRAIN_TIMEOUT_MS = 600_000;
const CANCEL_TIMEOUT_MS = 30_000;
const UNANSWERED: readonly string[] = ['QMP_BUSY', 'TIMEOUT'];
/**
 * What a save makes of a VM that ran, and a reset (`prelaunch`) of one that a save has paused; one that has shut down or
 * failed meanwhile is left as it is.
 */
const PAUSED_BY_SAVES: readonly string[] = ['paused', 'postmigrate', 'prelaunch'];
const THAWS_BY_ITSELF_SINCE = 10;

export interface PuttingRight {
  readonly qmp: QmpClient;
  readonly journal: VmJournal;
  readonly onMessage: (text: string) => void;
}

/**
 * The VM's monitor. A QEMU that does not answer because a save was cut off, receiver and all, is thawed first: its
 * main loop writes to the VM's memory, too.
 * @throws VmckptError as QmpClient.connect(), and VM_BUSY when the client that has the monitor is another save
 */
export async function connectToVm(qmpSocket: string, signal: AbortSignal): Promise<QmpClient> {
  const connect = () => QmpClient.connect({ path: qmpSocket, timeoutMs: CONNECT_TIMEOUT_MS, signal });
  try {
    return await connect();
  } catch (error) {
    if (!(error instanceof VmckptError) || !UNANSWERED.includes(error.code)) throw error;
    if (!thawAbandoned(await QmpClient.listenerAt(qmpSocket))) throw error;
    return connect();
  }
}

/** Thaws a VM whose save was cut off; false when none was. */
function thawAbandoned(pid: number): boolean {
  const qemu = identifyProcess(pid);
  if (qemu === undefined) return false;
  const journal = VmJournal.open(qemu);
  try {
    if (journal.read()?.method !== 'background-snapshot') return false;
    requireAddon('Freeing a VM that a save has frozen');
    rescueUserfaultfd(pid);
    return true;
  } finally {
    journal.close();
  }
}

/** Undoes what a journal tells of, or what is visibly left over; a VM in order is left alone. */
export async function putRight({ qmp, journal, onMessage }: PuttingRight): Promise<void> {
  const note = journal.read();
  if (note !== undefined) {
    onMessage('An earlier save of this VM was interrupted: setting back what it changed.');
    const runsAgain = await giveBack(qmp, note);
    journal.clear();
    // Nothing tells whether the VM has run since: somebody else may have paused it.
    if (runsAgain)
      onMessage(
        'The VM was paused, as the interrupted save has left it: it runs again. If you have paused it since, pause it again.',
      );
    return;
  }
  const { capabilities } = await readMigrationSettings(qmp);
  if (capabilities['background-snapshot'] !== true) return;
  if (isMigrating((await queryMigrate(qmp)).status)) return;
  onMessage(
    'Another program has left the capability background-snapshot on, which corrupts saves: switching it off.',
  );
  await applyMigrationSettings(qmp, { capabilities: { 'background-snapshot': false } });
}

/**
 * Ends the migration in the way its method allows, restores the settings, and lets a VM run that ran before.
 * @returns whether it had to be let run
 */
export async function giveBack(qmp: QmpClient, note: JournalNote): Promise<boolean> {
  await takeBack(qmp);
  // One that is under way during a capture is another program's.
  if (note.method !== 'capture') await endMigration(qmp, note.method);
  if (note.method === 'background-snapshot') await thaw(qmp);
  if (note.method === 'stopped') await release(qmp);
  if (note.method === 'capture') await removeDescriptors(qmp);
  await applyMigrationSettings(qmp, note);
  const { status } = await qmp.query(v.object({ status: v.string() }), 'query-status');
  const isLeftPaused = note.wasRunning && PAUSED_BY_SAVES.includes(status);
  if (isLeftPaused) await qmp.execute('cont');
  return isLeftPaused;
}

/** A background-snapshot is never cancelled (QEMU 7.2 would freeze the VM): its receiver drains it to the end. */
async function endMigration(qmp: QmpClient, method: JournalNote['method']): Promise<void> {
  if (!isMigrating((await queryMigrate(qmp)).status)) return;
  const draining = method === 'background-snapshot';
  if (!draining) await qmp.execute('migrate_cancel');
  await poll(async () => (isMigrating((await queryMigrate(qmp)).status) ? undefined : true), {
    what: draining ? 'the background snapshot to end' : 'the migration to be cancelled',
    timeoutMs: draining ? DRAIN_TIMEOUT_MS : CANCEL_TIMEOUT_MS,
    everyMs: 10,
  });
}

/** Before version 10 QEMU leaves the VM's memory write-protected when a background-snapshot fails: its next write hangs. */
async function thaw(qmp: QmpClient): Promise<void> {
  if (qmp.version.major >= THAWS_BY_ITSELF_SINCE || (await queryMigrate(qmp)).status !== 'failed') return;
  const pid = qmp.peerPid();
  if (!hasAddon() && !isWriteProtected(pid)) return;
  requireAddon('Freeing a VM that a failed save has frozen');
  try {
    rescueUserfaultfd(pid);
  } catch (cause) {
    throw new VmckptError(
      'NOT_PERMITTED',
      'the failed save may have frozen the VM, and this user may not free it',
      {
        hint: `${asRoot(`Run \`vmckpt rescue ${pid} --qmp ${qmp.path}\``, 'CAP_SYS_PTRACE')}.`,
        cause,
      },
    );
  }
}
