/**
 * Where vmckpt keeps what lives no longer than the host's uptime: the sockets, logs and state of restored VMs, and
 * the locks and journals of VMs that are being saved. The folder is private to the user. Its place depends on the
 * user's id only, so that a shell, cron, `sudo -u` and a service see the same VMs, and it outlives logins. If another
 * user has taken the place, the next one is used, and is found again.
 */
import { accessSync, constants, existsSync, lstatSync, mkdirSync, type Stats } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { VmckptError } from '../errors.js';

const WRITABLE_BY_OTHERS = 0o022;
/** The sticky bit. */
const MEANT_FOR_ALL = 0o1000;

/**
 * `$VMCKPT_RUNTIME_DIR`, otherwise `/run/vmckpt` for root and `/tmp/vmckpt-UID` for others, otherwise `/var/tmp/…`.
 * @throws VmckptError NOT_PERMITTED when others may write to it: they could have put anything there
 */
export function runtimeDir(): string {
  const chosen = chosenDir();
  if (chosen === undefined) return firstUsable(placesOf(userId()));
  requirePrivate(chosen);
  return chosen;
}

/** The path of something in a runtime folder, including places that earlier versions or earlier runs have used. */
export function findRuntimePath(...below: string[]): string {
  const found = runtimeDirs().map((root) => path.join(root, ...below));
  return found.find((place) => existsSync(place)) ?? found[0]!;
}

/** The runtime folder, followed by former ones that still exist. @throws as runtimeDir() */
export function runtimeDirs(): string[] {
  const current = runtimeDir();
  if (chosenDir() !== undefined) return [current];
  const uid = userId();
  const { XDG_RUNTIME_DIR: session } = process.env;
  const former = [
    ...(session ? [path.join(session, 'vmckpt')] : []),
    `/run/user/${uid}/vmckpt`,
    path.join(os.tmpdir(), `vmckpt-${uid}`),
    ...placesOf(uid),
  ];
  return [...new Set([current, ...former.filter((place) => isPrivate(lookAt(place)))])];
}

/** The first place that belongs to this user alone, otherwise the first that can be made. @throws as runtimeDir() */
export function firstUsable(places: readonly string[]): string {
  const own = places.find((place) => isPrivate(lookAt(place)));
  const usable = own ?? places.find((place) => lookAt(place) === undefined && mayWrite(path.dirname(place)));
  if (usable !== undefined) return usable;
  for (const place of places) requirePrivate(place);
  throw new VmckptError('NOT_PERMITTED', `no runtime folder can be created: ${places.join(', ')}`, {
    hint: 'Set VMCKPT_RUNTIME_DIR to a folder of your own.',
  });
}

/** A folder in the runtime folder. If missing, it is made, readable by its owner only. @throws as runtimeDir() */
export function ensureRuntimeDir(...below: string[]): string {
  const root = runtimeDir();
  const directory = path.join(root, ...below);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  requirePrivate(root); // another user may have been faster
  return directory;
}

function chosenDir(): string | undefined {
  const { VMCKPT_RUNTIME_DIR: own } = process.env;
  return own === undefined || own === '' ? undefined : path.resolve(own);
}

/**
 * Not `$XDG_RUNTIME_DIR`, which ends with the user's last session; not `$TMPDIR`, which may differ between processes.
 */
function placesOf(uid: number): string[] {
  const temporary = [`/tmp/vmckpt-${uid}`, `/var/tmp/vmckpt-${uid}`];
  return uid === 0 ? ['/run/vmckpt', ...temporary] : temporary;
}

function userId(): number {
  return process.getuid?.() ?? 0;
}

/** Undefined also where this user may not look, such as another user's `$XDG_RUNTIME_DIR` that `su` passed on. */
function lookAt(root: string): Stats | undefined {
  try {
    return lstatSync(root, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

function isPrivate(found: Stats | undefined): boolean {
  return (
    found !== undefined && found.isDirectory() && isOwn(found) && (found.mode & WRITABLE_BY_OTHERS) === 0
  );
}

function isOwn(found: Stats): boolean {
  return found.uid === userId();
}

function mayWrite(directory: string): boolean {
  try {
    accessSync(directory, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function requirePrivate(root: string): void {
  const found = lookAt(root);
  if (found === undefined || isPrivate(found)) return;
  const isFolder = found.isDirectory();
  // A folder meant for all users, such as /tmp, must stay so.
  const mayBeClosed = isFolder && isOwn(found) && (found.mode & MEANT_FOR_ALL) === 0;
  throw new VmckptError(
    'NOT_PERMITTED',
    isFolder
      ? `the runtime folder ${root} is not private to this user`
      : `the runtime folder ${root} is not a folder`,
    {
      hint: mayBeClosed
        ? `Run chmod 700 ${root}, or set VMCKPT_RUNTIME_DIR to a folder of your own.`
        : 'Set VMCKPT_RUNTIME_DIR to a folder of your own, which need not exist.',
    },
  );
}
