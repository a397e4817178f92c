/** What keeps a stored generation from being removed: the memory of a restored VM may still depend on it. */
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { usersOf } from '../store/generation-use.js';
import { Store, type Generation } from '../store/store.js';
import { listVmFolders } from './folder.js';
import type { VmRecord } from './records.js';
import { statusOf, type VmStatus } from './status.js';

/**
 * @param reference NAME@GENERATION: the generation is mandatory
 * @throws VmckptError USAGE without a generation, NO_CHECKPOINT, STORE_LOCKED while it is in use or being written
 */
export async function removeGeneration(storeDir: string, reference: string): Promise<void> {
  const store = await Store.open(storeDir);
  refuseNeeded(await store.locate(reference));
  await store.remove(reference);
}

/** Who needs a generation: `VM "web"`, `process 123`; undefined when it may be removed. */
export function neededBy(generation: Generation): string | undefined {
  const vm = findDependent(generation);
  if (vm !== undefined) return `VM "${vm.record.name}"`;
  const [pid] = usersOf(path.dirname(generation.dir), generation.number);
  if (pid === undefined) return undefined;
  return pid === 0 ? 'another process' : `process ${pid}`;
}

function refuseNeeded(generation: Generation): void {
  const vm = findDependent(generation);
  if (vm === undefined) return;
  const { record, status } = vm;
  const wait = record.mode === 'map' ? 'End it' : 'Wait until vmckpt ps calls it complete, or end it';
  throw new VmckptError(
    'STORE_LOCKED',
    `${generation.reference} still holds memory of the restored VM "${record.name}" (${status})`,
    { hint: `${wait}: vmckpt stop ${record.name}` },
  );
}

/** A VM whose transfer was lost also needs its generation, although no process has it open: it can be taken over. */
function findDependent(generation: Generation): { record: VmRecord; status: VmStatus } | undefined {
  for (const folder of listVmFolders()) {
    const record = folder.read();
    if (record === undefined || !isFrom(record, generation)) continue;
    const status = statusOf(record, folder.readTransfer());
    const isMapped = record.mode === 'map';
    if (status === 'ended' || (status === 'complete' && !isMapped)) continue;
    return { record, status };
  }
  return undefined;
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
