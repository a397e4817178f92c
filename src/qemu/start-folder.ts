/**
 * The folder that relative names of a running QEMU's command line are meant from. QEMU leaves it when it goes into the
 * background, and nothing says afterwards which one it was: what QEMU has open shows it. A name that fits in another
 * folder, too, is another VM's file there, so nothing is believed that no open file bears out.
 */
import { readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import type { NamedFile } from './named-files.js';
import { namesDescriptor } from './unrepeatable.js';

export interface Surroundings {
  readonly pid: number;
  readonly files: readonly NamedFile[];
  /** Of disks, as QEMU calls them. */
  readonly images: readonly string[];
  /** Whether QEMU has changed to the root folder. */
  readonly hasLeft: boolean;
  /** The unix socket by which QEMU was reached, as the user called it. */
  readonly qmpSocket: string;
}

/** @returns undefined when it cannot be known */
export function findStartFolder(surroundings: Surroundings): string | undefined {
  const { pid, hasLeft } = surroundings;
  if (!hasLeft) return currentFolder(pid);
  const relative = relativeNames(surroundings);
  const named = folderOfEnvironment(pid);
  if (relative.length === 0) return named ?? '/';
  const candidates = [...(named === undefined ? [] : [named]), ...foldersOfOpenFiles(surroundings, relative)];
  return candidates.find((folder) => fits(folder, surroundings));
}

/** Images that are not the ones that QEMU has open, or are gone. @param folder what relative names are meant from */
export function lostImages({ pid, images }: Surroundings, folder: string | undefined): string[] {
  const open = openFiles(pid);
  return images
    .filter((name) => !namesDescriptor(name) && (path.isAbsolute(name) || folder !== undefined))
    .filter((name) => !isOpen(path.resolve(folder ?? '/', name), open));
}

/** A folder that was deleted is told apart from one that was made in its place. */
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

/** Each below which an open file, or the socket that we know, has a name of the command line. */
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

/** Every image is the open one, and something bears it out. */
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

/** As it is called in each PID namespace. */
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
    const name = id !== undefined && readlinkSync(`${folder}/${fd}`);
    if (name) found.set(id, name);
  }
  return found;
}

/** Of a file, wherever its name leads. */
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
