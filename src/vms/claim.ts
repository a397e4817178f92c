/** The claim on the name of a VM that is being restored. It holds until the VM is on record. */
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { LockFile } from '../store/lock-file.js';
import { isAlive } from '../util/process-identity.js';
import { ensureRuntimeDir } from '../util/runtime-dir.js';
import { VmFolder } from './folder.js';
import { statusOf } from './status.js';

const ANOTHER_NAME = ', give this one another name with --as';
/** How many times the claim's file may be deleted under us before another process is taken to hold it. */
const ATTEMPTS = 10;

export class NameClaim {
  #lock: LockFile | undefined;

  private constructor(lock: LockFile) {
    this.#lock = lock;
  }

  /** Undefined when another process has it. */
  static take(name: string): NameClaim | undefined {
    const file = fileOf(name);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const lock = LockFile.tryTake(file);
      if (lock !== undefined) return new NameClaim(lock);
      if (LockFile.holderOf(file) !== undefined) break;
    }
    return undefined;
  }

  /** Leaves nothing behind. A second call does nothing. */
  release(): void {
    this.#lock?.delete();
    this.#lock?.release();
    this.#lock = undefined;
  }
}

function fileOf(name: string): string {
  return path.join(ensureRuntimeDir('claims'), name);
}

export interface ClaimedFolder {
  readonly folder: VmFolder;
  /** Released when the VM is on record in the folder, or will not be. */
  readonly claim: NameClaim;
}

/**
 * Claims the folder for a VM that is to be restored under this name, and removes what an ended VM left there.
 * @throws VmckptError VM_BUSY when such a VM lives
 */
export function claimFolder(name: string): ClaimedFolder {
  const folder = new VmFolder(name);
  const claim = NameClaim.take(name);
  if (claim === undefined) throw beingRestored(name, LockFile.holderOf(fileOf(name)), ANOTHER_NAME);
  const record = folder.read();
  if (record === undefined && folder.hasRecord()) {
    claim.release();
    throw new VmckptError('VM_BUSY', `the record of a restored VM called "${name}" cannot be read`, {
      hint: `Another version of vmckpt may have written it. If that VM has ended, remove ${folder.directory}.`,
    });
  }
  if (record !== undefined) {
    const status = statusOf(record, folder.readTransfer());
    if (status !== 'ended') claim.release();
    if (status === 'starting' && isAlive(record.verb))
      throw beingRestored(name, record.verb.pid, ANOTHER_NAME);
    if (status !== 'ended')
      throw new VmckptError('VM_BUSY', `a restored VM called "${name}" is still there (${status})`, {
        hint: `End it with vmckpt stop ${name}, or give this one another name with --as.`,
      });
  }
  folder.remove();
  folder.create();
  return { folder, claim };
}

/**
 * @param pid of the restoring process; undefined or 0 when it is unknown or has died
 * @param otherwise a clause, with its comma, for what helps besides waiting
 */
export function beingRestored(name: string, pid: number | undefined, otherwise = ''): VmckptError {
  const isKnown = pid !== undefined && pid > 0;
  const by = isKnown ? ` by process ${pid}` : '';
  const interrupt = isKnown ? `, or interrupt that process: kill -INT ${pid}` : ', and try again.';
  return new VmckptError('VM_BUSY', `"${name}" is being restored at this moment${by}`, {
    hint: `Wait until it runs${otherwise}${interrupt}`,
  });
}
