/** Stores by their addresses, as options and other processes give them. */
import path from 'node:path';
import { isAddress } from './address.js';
import { connectStore } from './client/server-store.js';
import type { RemoteStore } from './contracts.js';
import { DirectoryStore } from './directory-store.js';
import { isBucketAddress } from './s3/address.js';

/** How page servers are reached. */
export interface Access {
  /** Where this client's certificate is; the user's folder for that by default. */
  readonly tlsDir?: string | undefined;
  /** Plain TCP to other hosts, too. */
  readonly insecurePlaintext?: boolean | undefined;
}

export interface OpenOptions extends Access {
  /** Whether a folder is made if there is none. */
  readonly isMade?: boolean;
}

/** @throws VmckptError USAGE; for a folder NO_STORE and others, as Store.open(); another store is not asked yet */
export async function openStore(
  address: string,
  { isMade = false, ...access }: OpenOptions = {},
): Promise<RemoteStore> {
  // With the packages of its engine, which are loaded for it alone.
  if (isBucketAddress(address)) return (await import('./s3/store.js')).S3Store.open(address);
  return isAddress(address) ? connectStore(address, access) : DirectoryStore.open(address, { isMade });
}

/** The same for a process in another folder. */
export function absoluteAddress(address: string): string {
  return isAddress(address) ? address : path.resolve(address);
}
