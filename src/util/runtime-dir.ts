/**
 * Where vmckpt keeps what lives no longer than the machine is up: the sockets, logs and state of restored VMs,
 * and the locks and journals of VMs that are being saved. Private to the user.
 */
import { mkdirSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

/** `$VMCKPT_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/vmckpt`, else `/run/vmckpt` for root and a private folder in /tmp. */
export function runtimeDir(): string {
  const { VMCKPT_RUNTIME_DIR: own, XDG_RUNTIME_DIR: session } = process.env;
  if (own !== undefined && own !== '') return path.resolve(own);
  if (session !== undefined && session !== '') return path.join(session, 'vmckpt');
  const uid = process.getuid?.() ?? 0;
  return uid === 0 ? '/run/vmckpt' : path.join(os.tmpdir(), `vmckpt-${uid}`);
}

/** A folder below the runtime folder, made when it is missing, readable by its owner only. */
export function ensureRuntimeDir(...below: string[]): string {
  const directory = path.join(runtimeDir(), ...below);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  return directory;
}
