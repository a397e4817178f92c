/** Removes a stored generation, unless the memory of a restored VM still depends on it. */
import { VmckptError } from '../errors.js';
import { Store, type Generation } from '../store/store.js';
import { listVmFolders } from './folder.js';
import { statusOf } from './status.js';

/**
 * @param reference NAME@GENERATION: which one goes must be said
 * @throws VmckptError USAGE without a generation, NO_CHECKPOINT, STORE_LOCKED while it is in use or being written
 */
export async function removeGeneration(storeDir: string, reference: string): Promise<void> {
  const store = await Store.open(storeDir);
  refuseNeeded(await store.locate(reference));
  await store.remove(reference);
}

/** A VM whose transfer was lost needs its generation too, although no process has it open: it can be taken over. */
function refuseNeeded({ reference, dir }: Generation): void {
  for (const folder of listVmFolders()) {
    const record = folder.read();
    if (record?.generationDir !== dir) continue;
    const status = statusOf(record, folder.readTransfer());
    const isMapped = record.mode === 'map';
    if (status === 'ended' || (status === 'complete' && !isMapped)) continue;
    const wait = isMapped ? 'End it' : 'Wait until vmckpt ps calls it complete, or end it';
    throw new VmckptError(
      'STORE_LOCKED',
      `${reference} still holds memory of the restored VM "${record.name}" (${status})`,
      { hint: `${wait}: vmckpt stop ${record.name}` },
    );
  }
}
