/** Stores by their addresses, as options and other processes give them. */
import { isAddress } from './address.js';
import { connectStore } from './client/server-store.js';
import type { RemoteStore } from './contracts.js';
import { DirectoryStore } from './directory-store.js';

/** @throws VmckptError USAGE; for a folder NO_STORE and others, as Store.open(); a server is not asked yet */
export async function openStore(address: string): Promise<RemoteStore> {
  return isAddress(address) ? connectStore(address) : DirectoryStore.open(address);
}
