/**
 * Where the sockets of a restored VM lie, and what QEMU itself makes for it: in the VM's folder. QEMU as another user may
 * not write there, and a long name makes paths that no unix socket can have: then it is a folder of their own with a short
 * name, beside the VMs' folders, which that user gets.
 */
import path from 'node:path';
import { xxh3 } from '../native/index.js';
import { MAX_SOCKET_PATH_BYTES, OWN_FOLDER } from '../qemu/own-identity.js';

/** Names of users' sockets that a clone has in its folder; longer ones are cut. */
const OWN_NAME_BYTES = 24;
/** Beside the folder of all VMs. */
const SHORT_FOLDERS = 's';

/** @param directory the VM's folder. @param isOthers QEMU runs as another user */
export function socketFolderOf(directory: string, isOthers: boolean): string {
  const longest = path.join(directory, OWN_FOLDER, 'x'.repeat(OWN_NAME_BYTES));
  const isTooLong = Buffer.byteLength(longest) > MAX_SOCKET_PATH_BYTES;
  return isOthers || isTooLong ? shortFolderOf(directory) : directory;
}

export function shortFolderOf(directory: string): string {
  const id = xxh3(Buffer.from(path.basename(directory)))
    .toString(16)
    .padStart(16, '0');
  return path.join(runtimeFolderOf(directory), SHORT_FOLDERS, id);
}

/** The runtime folder in which a VM has its folder. */
export function runtimeFolderOf(directory: string): string {
  return path.dirname(path.dirname(directory));
}
