/** Names of the host's files that an option which is not trusted may have. */
import { realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import type { ValueCheck } from './grammar.js';

/** Folders where QEMU may put a listening socket. */
export const SOCKET_FOLDERS = ['/run', '/var/run', '/tmp', '/var/tmp', '/var/lib/libvirt/qemu'] as const;

const OF_THE_KERNEL = /^\/(dev|proc|sys)(\/|$)/;

/** An ordinary file to read: to open a device or a pipe does something, and `nbd:…`, `json:{…}` is no file at all. */
export const ordinaryFile: ValueCheck = (value, { cwd }) => {
  if (/^[^/]*:/.test(value)) return `${value} is more than a file name`;
  const file = path.resolve(cwd, value);
  if ([file, realPath(file)].some((name) => OF_THE_KERNEL.test(name)) || !isFileOrNothing(file))
    return `${value} is no ordinary file`;
  return undefined;
};

/** What is not found in QEMU's folder is looked for where its firmware is, and from there `..` leads elsewhere. */
export const firmware: ValueCheck = (value, where) => {
  if (value === '') return undefined;
  return value.split('/').includes('..') ? `${value} leads out of its folder` : ordinaryFile(value, where);
};

/** The system's own. */
export const firmwareFolder: ValueCheck = (value) =>
  path.resolve(value) === value && value.startsWith('/usr/') ? undefined : `reads firmware from ${value}`;

/** Names behind each other, with a colon between them. */
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
  // Not through a link either.
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

/** Of what there is of it. */
function realPath(file: string): string {
  try {
    return realpathSync(file);
  } catch {
    const folder = path.dirname(file);
    return folder === file ? file : path.join(realPath(folder), path.basename(file));
  }
}
