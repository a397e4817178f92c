/** Stores that hold the same generations, each behind an address. */
import { VmckptError } from '../errors.js';
import type { RemoteStore } from './contracts.js';
import { openStore, type Access } from './open-store.js';

export interface Replicas {
  /** At least one. */
  readonly addresses: readonly string[];
  readonly connecting: Access;
}

/**
 * Asks one replica after the other, until one is there.
 * @throws VmckptError SOURCE_UNAVAILABLE when none is; what the first answer is
 */
export async function onFirstReplica<T>(
  { addresses, connecting }: Replicas,
  act: (store: RemoteStore) => Promise<T>,
): Promise<T> {
  let failure: unknown;
  for (const address of addresses) {
    const store = await openStore(address, connecting);
    try {
      return await act(store);
    } catch (error) {
      failure ??= error;
      if (!(error instanceof VmckptError) || error.code !== 'SOURCE_UNAVAILABLE') throw error;
    } finally {
      await store.close();
    }
  }
  throw failure;
}

/** Acts on each of them. @throws what the first one that fails throws */
export async function onEveryReplica<T>(
  { addresses, connecting }: Replicas,
  act: (store: RemoteStore) => Promise<T>,
): Promise<T[]> {
  const results: T[] = [];
  for (const address of addresses)
    results.push(await onFirstReplica({ addresses: [address], connecting }, act));
  return results;
}
