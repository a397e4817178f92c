/** What was changed in a VM while it ran comes along with it, or is named: before the save changes anything. */
import { VmckptError } from '../errors.js';
import type { Drift } from '../qemu/drift/drift.js';
import { cutLinks, type DeviceSections } from '../qemu/drift/links.js';
import type { SaveMethod } from './methods.js';

export interface Wishes {
  readonly method: SaveMethod;
  /** The user will restore it with a command line of his own. */
  readonly ownCommandLine?: boolean;
  readonly onMessage: (text: string) => void;
}

/** @throws VmckptError MIGRATION_BLOCKED where the VM is not to run on, and something would be lost with it */
export function accountForChanges(
  { lost, unexplained, unreadable }: Drift,
  { method, ownCommandLine, onMessage }: Wishes,
): void {
  if (lost.length > 0 && method === 'stopped' && ownCommandLine !== true)
    throw new VmckptError('MIGRATION_BLOCKED', `a restore would not bring back: ${lost.join('; ')}`, {
      hint: 'Put that back to how the VM was started, or save it while it runs (without --stop and --quit), which leaves it as it is. If you will restore it with a command line of your own: --own-command-line.',
    });
  const missing = [...lost, ...unexplained];
  if (missing.length > 0) onMessage(`Not in the checkpoint: ${missing.join('; ')}.`);
  if (unreadable.length > 0)
    onMessage(
      `QEMU does not reveal these settings, so a restore cannot bring them back: ${unreadable.join('; ')}.`,
    );
}

/** With what only the saved state tells. */
export function withLinks(
  drift: Drift,
  stream: DeviceSections,
  { onMessage }: Pick<Wishes, 'onMessage'>,
): Drift {
  const { links, untold } = cutLinks(stream, drift.network);
  if (untold.length > 0) onMessage(`Not in the checkpoint: ${untold.join('; ')}.`);
  const replayed = links.map((link) => ({ ...link, replay: true }));
  return { ...drift, settings: [...drift.settings, ...replayed], lost: [...drift.lost, ...untold] };
}
