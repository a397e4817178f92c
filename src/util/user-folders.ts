/**
 * The user's home, and the folder for what vmckpt keeps about this user across boots. Programs without a session (cron,
 * systemd, `env -i`) find the same folders as a shell does.
 */
import { statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

/** `$HOME`; if unset, the home in the user database; `/` for an unknown user. */
export function homeDir(): string {
  const home = process.env['HOME'] ?? '';
  return path.isAbsolute(home) ? home : (registeredHome() ?? '/');
}

/**
 * `$XDG_STATE_HOME/vmckpt`, otherwise `~/.local/state/vmckpt`. A home that belongs to another user does not count,
 * even if `$HOME` names it, as after `sudo -E`. The folder may be missing.
 */
export function stateDir(): string {
  const state = process.env['XDG_STATE_HOME'] ?? '';
  if (path.isAbsolute(state)) return path.join(state, 'vmckpt');
  const home = homeDir();
  const isOwn = statSync(home, { throwIfNoEntry: false })?.uid === process.getuid?.();
  return path.join(isOwn ? home : (registeredHome() ?? home), '.local', 'state', 'vmckpt');
}

/** `$XDG_CACHE_HOME/vmckpt`, otherwise `~/.cache/vmckpt`: what may be removed at any time, and is made again. */
export function cacheDir(): string {
  const cache = process.env['XDG_CACHE_HOME'] ?? '';
  return path.join(path.isAbsolute(cache) ? cache : path.join(homeDir(), '.cache'), 'vmckpt');
}

function registeredHome(): string | undefined {
  try {
    return os.userInfo().homedir;
  } catch {
    return undefined; // a container may run as a user without an entry
  }
}
