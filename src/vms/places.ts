/**
 * Where the sockets of a restored VM are, and the files that QEMU makes for it. Usually that is the VM's folder. If
 * QEMU runs as another user, it may not write there; and a long name makes paths that are too long for a unix socket.
 * In both cases they get a folder with a short name next to the VMs' folders, which that user owns.
 */
import path from 'node:path';
import { xxh3 } from '../native/index.js';
import { MAX_SOCKET_PATH_BYTES, OWN_FOLDER } from '../qemu/own-identity.js';

/** Longer names of a clone's sockets are cut. */
const OWN_NAME_BYTES = 24;
/** Next to the folder of all VMs. */
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

/** The runtime folder that contains the VM's folder. */
export function runtimeFolderOf(directory: string): string {
  return path.dirname(path.dirname(directory));
}
