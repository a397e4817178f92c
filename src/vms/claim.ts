/** The name of a VM that is to be restored: nobody else restores under it meanwhile. */
import { VmckptError } from '../errors.js';
import { VmFolder } from './folder.js';
import { statusOf } from './status.js';

/**
 * The folder for a VM that is to be restored under this name; what an ended VM has left there goes.
 * @throws VmckptError VM_BUSY when such a VM lives
 */
export function claimFolder(name: string): VmFolder {
  const folder = new VmFolder(name);
  if (!folder.claim())
    throw new VmckptError('VM_BUSY', `"${name}" is being restored at this moment`, {
      hint: 'Wait until it runs; --as gives this one another name.',
    });
  const record = folder.read();
  if (record !== undefined) {
    const status = statusOf(record, folder.readTransfer());
    if (status !== 'ended') {
      folder.disclaim();
      throw new VmckptError('VM_BUSY', `a restored VM called "${name}" is still there (${status})`, {
        hint: `End it with vmckpt stop ${name}, or give this one another name with --as.`,
      });
    }
  }
  folder.clear();
  folder.create();
  return folder;
}
