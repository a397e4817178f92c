/**
 * Finds the folder from which relative names of a running QEMU's command line are resolved. QEMU leaves that folder
 * when it goes into the background, and nothing records it, but QEMU's open files show it. The same name may also
 * exist in another folder, as another VM's file, so a folder counts only if open files confirm it.
 */
import { readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import type { NamedFile } from './named-files.js';
import { namesDescriptor } from './unrepeatable.js';

export interface Surroundings {
  readonly pid: number;
  readonly files: readonly NamedFile[];
  /** Images of disks, as QEMU names them. */
  readonly images: readonly string[];
  /** Whether QEMU has changed to the root folder. */
  readonly hasLeft: boolean;
  /** The unix socket that reached QEMU, as the user named it. */
  readonly qmpSocket: string;
}

/** @returns undefined if unknown */
export function findStartFolder(surroundings: Surroundings): string | undefined {
  const { pid, hasLeft } = surroundings;
  if (!hasLeft) return currentFolder(pid);
  const relative = relativeNames(surroundings);
  const named = folderOfEnvironment(pid);
  if (relative.length === 0) return named ?? '/';
  const candidates = [...(named === undefined ? [] : [named]), ...foldersOfOpenFiles(surroundings, relative)];
  return candidates.find((folder) => fits(folder, surroundings));
}

/** Images that are missing, or are not the files that QEMU has open. @param folder where relative names are resolved */
export function lostImages({ pid, images }: Surroundings, folder: string | undefined): string[] {
  const open = openFiles(pid);
  return images
    .filter((name) => !namesDescriptor(name) && (path.isAbsolute(name) || folder !== undefined))
    .filter((name) => !isOpen(path.resolve(folder ?? '/', name), open));
}

/** A deleted folder is distinguished from a new one in its place. */
function currentFolder(pid: number): string | undefined {
  const link = `/proc/${pid}/cwd`;
  const folder = readlinkSync(link);
  if (idOf(folder) === idOf(link)) return folder;
  const deleted = folder.replace(/ \(deleted\)$/, '');
  return idOf(deleted) === undefined ? deleted : undefined;
}

function folderOfEnvironment(pid: number): string | undefined {
  const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  const folder = environment.find((entry) => entry.startsWith('PWD='))?.slice('PWD='.length);
  return folder !== undefined && path.isAbsolute(folder) && idOf(folder) !== undefined ? folder : undefined;
}

interface Relative {
  readonly name: string;
  readonly use: NamedFile['use'] | 'image';
}

function relativeNames({ files, images }: Surroundings): Relative[] {
  const all: Relative[] = [...files, ...images.map((name) => ({ name, use: 'image' as const }))];
  return all.filter(({ name }) => !path.isAbsolute(name));
}

/** Folders in which an open file, or the known socket, has a name from the command line. */
function foldersOfOpenFiles({ pid, qmpSocket }: Surroundings, relative: readonly Relative[]): string[] {
  const known = [...openFiles(pid).values(), realPath(qmpSocket)];
  const folders = known.flatMap((file) =>
    relative.flatMap(({ name }) => {
      const end = `/${path.normalize(name)}`;
      return file.endsWith(end) ? [file.slice(0, -end.length) || '/'] : [];
    }),
  );
  return [...new Set(folders)];
}

/** Whether every image is the open one, and something confirms it. */
function fits(folder: string, surroundings: Surroundings): boolean {
  const open = openFiles(surroundings.pid);
  let isProven = false;
  for (const { name, use } of relativeNames(surroundings)) {
    const file = path.resolve(folder, name);
    const proven = isOpen(file, open) || proves(file, use, surroundings);
    if (!proven && use === 'image') return false;
    isProven ||= proven;
  }
  return isProven;
}

function proves(file: string, use: Relative['use'], { pid, qmpSocket }: Surroundings): boolean {
  if (use === 'listen') return idOf(file) !== undefined && idOf(file) === idOf(qmpSocket);
  return use === 'pidfile' && pidsOf(pid).includes(readPid(file));
}

/** Its process id in each PID namespace. */
function pidsOf(pid: number): string[] {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return [String(pid), ...(/^NSpid:(.*)$/m.exec(status)?.[1] ?? '').split(/\s+/).filter(Boolean)];
}

function readPid(file: string): string {
  try {
    return readFileSync(file, 'latin1').trim();
  } catch {
    return '';
  }
}

function isOpen(file: string, open: ReadonlyMap<string, string>): boolean {
  const id = idOf(file);
  return id !== undefined && open.has(id);
}

/** Id → name. */
function openFiles(pid: number): ReadonlyMap<string, string> {
  const folder = `/proc/${pid}/fd`;
  const found = new Map<string, string>();
  for (const fd of readdirSync(folder)) {
    const id = idOf(`${folder}/${fd}`);
    const name = linkOf(`${folder}/${fd}`);
    // Either is missing where it was closed meanwhile.
    if (id !== undefined && name !== undefined) found.set(id, name);
  }
  return found;
}

function linkOf(file: string): string | undefined {
  try {
    return readlinkSync(file);
  } catch {
    return undefined;
  }
}

/** Id of the file that the name finally leads to. */
function idOf(file: string): string | undefined {
  try {
    const { dev, ino } = statSync(file, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}

function realPath(file: string): string {
  try {
    return realpathSync(file);
  } catch {
    return file;
  }
}
