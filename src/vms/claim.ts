/** The name of a VM that is to be restored: it is taken until the VM is on record. */
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { tryLockFile } from '../native/index.js';
import { ensureRuntimeDir } from '../util/runtime-dir.js';
import { VmFolder } from './folder.js';
import { statusOf } from './status.js';

export class NameClaim {
  #fd: number | undefined;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Undefined when another process has it. */
  static take(name: string): NameClaim | undefined {
    const fd = openSync(path.join(ensureRuntimeDir('claims'), name), 'w', 0o600);
    if (tryLockFile(fd)) return new NameClaim(fd);
    closeSync(fd);
    return undefined;
  }

  /** A second time does nothing. */
  release(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

export interface ClaimedFolder {
  readonly folder: VmFolder;
  /** To be released when the VM is on record in the folder, or will not be. */
  readonly claim: NameClaim;
}

/**
 * The folder for a VM that is to be restored under this name; what an ended VM has left there goes.
 * @throws VmckptError VM_BUSY when such a VM lives
 */
export function claimFolder(name: string): ClaimedFolder {
  const folder = new VmFolder(name);
  const claim = NameClaim.take(name);
  if (claim === undefined)
    throw new VmckptError('VM_BUSY', `"${name}" is being restored at this moment`, {
      hint: 'Wait until it runs; --as gives this one another name.',
    });
  const record = folder.read();
  if (record === undefined && folder.hasRecord()) {
    claim.release();
    throw new VmckptError('VM_BUSY', `the record of a restored VM called "${name}" cannot be read`, {
      hint: `Another version of vmckpt may have written it. If that VM has ended, remove ${folder.directory}.`,
    });
  }
  if (record !== undefined) {
    const status = statusOf(record, folder.readTransfer());
    if (status !== 'ended') {
      claim.release();
      throw new VmckptError('VM_BUSY', `a restored VM called "${name}" is still there (${status})`, {
        hint: `End it with vmckpt stop ${name}, or give this one another name with --as.`,
      });
    }
  }
  folder.remove();
  folder.create();
  return { folder, claim };
}
