/** Stores by their addresses, as options and other processes give them. */
import { isAddress } from './address.js';
import { connectStore } from './client/server-store.js';
import type { RemoteStore } from './contracts.js';
import { DirectoryStore } from './directory-store.js';
import { isBucketAddress } from './s3/address.js';

/** @throws VmckptError USAGE; for a folder NO_STORE and others, as Store.open(); another store is not asked yet */
export async function openStore(address: string): Promise<RemoteStore> {
  // With the packages of its engine, which are loaded for it alone.
  if (isBucketAddress(address)) return (await import('./s3/store.js')).S3Store.open(address);
  return isAddress(address) ? connectStore(address) : DirectoryStore.open(address);
}
