/** Removes a stored generation, unless the memory of a restored VM still depends on it. */
import { VmckptError } from '../errors.js';
import { Store, type Generation } from '../store/store.js';
import { listVmFolders } from './folder.js';
import type { VmRecord } from './records.js';
import { statusOf } from './status.js';

/**
 * @param reference NAME@GENERATION: the generation is mandatory
 * @throws VmckptError USAGE without a generation, NO_CHECKPOINT, STORE_LOCKED while it is in use or being written
 */
export async function removeGeneration(storeDir: string, reference: string): Promise<void> {
  const store = await Store.open(storeDir);
  refuseNeeded(await store.locate(reference));
  await store.remove(reference);
}

/** A VM whose transfer was lost also needs its generation, although no process has it open: it can be taken over. */
function refuseNeeded(generation: Generation): void {
  const { reference } = generation;
  for (const folder of listVmFolders()) {
    const record = folder.read();
    if (record === undefined || !isFrom(record, generation)) continue;
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

/** Compares identities, so that any path to the generation counts; paths, if the generation cannot be read. */
function isFrom({ generationDir, generationId }: VmRecord, generation: Generation): boolean {
  return (
    generationDir === generation.dir || (generationId !== undefined && generationId === idOf(generation))
  );
}

function idOf(generation: Generation): string | undefined {
  try {
    return generation.manifest.id;
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    return undefined;
  }
}
