/** Names of the host's files that an untrusted option may contain. */
import { realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import type { ValueCheck } from './grammar.js';

/** Folders in which QEMU may create a listening socket. */
export const SOCKET_FOLDERS = ['/run', '/var/run', '/tmp', '/var/tmp', '/var/lib/libvirt/qemu'] as const;

const OF_THE_KERNEL = /^\/(dev|proc|sys)(\/|$)/;

/** An ordinary file to read. Opening a device or a pipe has effects, and `nbd:…`, `json:{…}` are not files. */
export const ordinaryFile: ValueCheck = (value, { cwd }) => {
  if (/^[^/]*:/.test(value)) return `${value} is more than a file name`;
  const file = path.resolve(cwd, value);
  if ([file, realPath(file)].some((name) => OF_THE_KERNEL.test(name)) || !isFileOrNothing(file))
    return `${value} is no ordinary file`;
  return undefined;
};

/** If it is not in QEMU's folder, QEMU looks in its firmware folder, and from there `..` leads elsewhere. */
export const firmware: ValueCheck = (value, where) => {
  if (value === '') return undefined;
  return value.split('/').includes('..') ? `${value} leads out of its folder` : ordinaryFile(value, where);
};

/** Only the system's own folders. */
export const firmwareFolder: ValueCheck = (value) =>
  path.resolve(value) === value && value.startsWith('/usr/') ? undefined : `reads firmware from ${value}`;

/** Names separated by colons. */
export const ordinaryFiles: ValueCheck = (value, where) =>
  value
    .split(':')
    .map((name) => ordinaryFile(name, where))
    .find((reason) => reason !== undefined);

export const ownSocket: ValueCheck = (value, { cwd, socketFolders }) => {
  const isBelow = (file: string, folder: string) => file.startsWith(`${folder}/`);
  const file = path.isAbsolute(value) ? value : `${cwd}/${value}`;
  const folder = socketFolders.find((each) => isBelow(file, each));
  const isPlain = value !== '' && path.normalize(file) === file;
  // A link must not lead elsewhere either.
  if (folder !== undefined && isPlain && isBelow(`${realPath(path.dirname(file))}/`, realPath(folder)))
    return undefined;
  return `creates the socket ${file} outside of ${SOCKET_FOLDERS.join(', ')}`;
};

function isFileOrNothing(file: string): boolean {
  try {
    return statSync(file, { throwIfNoEntry: false })?.isFile() ?? true;
  } catch {
    // QEMU may have other rights.
    return false;
  }
}

/** Resolves as much of the path as exists. */
function realPath(file: string): string {
  try {
    return realpathSync(file);
  } catch {
    const folder = path.dirname(file);
    return folder === file ? file : path.join(realPath(folder), path.basename(file));
  }
}
