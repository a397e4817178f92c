/**
 * Where vmckpt keeps what lives no longer than the machine is up: the sockets, logs and state of restored VMs,
 * and the locks and journals of VMs that are being saved. Private to the user.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { VmckptError } from '../errors.js';

const WRITABLE_BY_OTHERS = 0o022;

/**
 * `$VMCKPT_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/vmckpt`, else `/run/vmckpt` for root and a private folder in /tmp.
 * @throws VmckptError NOT_PERMITTED when others may write to it: what is found there would be theirs
 */
export function runtimeDir(): string {
  const root = chosenDir();
  requirePrivate(root);
  return root;
}

function chosenDir(): string {
  const { VMCKPT_RUNTIME_DIR: own, XDG_RUNTIME_DIR: session } = process.env;
  if (own !== undefined && own !== '') return path.resolve(own);
  if (session !== undefined && session !== '') return path.join(session, 'vmckpt');
  const uid = process.getuid?.() ?? 0;
  return uid === 0 ? '/run/vmckpt' : path.join(os.tmpdir(), `vmckpt-${uid}`);
}

/** A folder below the runtime folder, made when it is missing, readable by its owner only. @throws as runtimeDir() */
export function ensureRuntimeDir(...below: string[]): string {
  const directory = path.join(runtimeDir(), ...below);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  runtimeDir(); // somebody may have been quicker
  return directory;
}

function requirePrivate(root: string): void {
  const found = lstatSync(root, { throwIfNoEntry: false });
  if (found === undefined) return;
  const own = found.uid === process.getuid?.();
  if (found.isDirectory() && own && (found.mode & WRITABLE_BY_OTHERS) === 0) return;
  throw new VmckptError('NOT_PERMITTED', `the runtime folder ${root} is not this user's alone`, {
    hint: own
      ? `chmod 700 ${root}, or set VMCKPT_RUNTIME_DIR to a folder of your own.`
      : 'Set VMCKPT_RUNTIME_DIR to a folder of your own.',
  });
}
