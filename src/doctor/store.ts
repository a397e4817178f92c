/** The store: whether it is writable, and how much space is free. */
import { accessSync, constants, existsSync, statSync, statfsSync } from 'node:fs';
import path from 'node:path';
import { formatBytes } from '../util/units.js';
import type { Finding } from './finding.js';

/** Hardly enough for one VM. */
const LITTLE_BYTES = 2 * 2 ** 30;

export function examineStore(storeDir: string): Finding {
  const check = { check: 'store', title: 'Store' };
  const meaning = 'Nothing can be saved there.';
  const existing = nearestExisting(storeDir);
  const owner = statSync(existing).uid;
  if (existing === storeDir && owner !== process.getuid?.())
    return {
      ...check,
      status: 'fail',
      found: `${storeDir} belongs to user ${owner}`,
      meaning: 'Its checkpoints are not trusted, and none can be restored without --trust-command-line.',
      remedy: 'Use a --store of your own.',
    };
  try {
    accessSync(existing, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code = 'unknown error' } = error as NodeJS.ErrnoException;
    const found = `${existing} cannot be written to (${code})`;
    return {
      ...check,
      status: 'fail',
      found,
      meaning,
      remedy: 'Choose another --store, or set VMCKPT_STORE.',
    };
  }
  const { bavail, bsize } = statfsSync(existing);
  const freeBytes = bavail * bsize;
  const state = existing === storeDir ? '' : ', made by the first save';
  const found = `${storeDir}${state}, ${formatBytes(freeBytes)} free`;
  if (freeBytes >= LITTLE_BYTES) return { ...check, status: 'ok', found };
  return {
    ...check,
    status: 'warn',
    found,
    meaning: 'A checkpoint needs about half of what the VM has in memory.',
    remedy: 'vmckpt prune --keep-last 3 --dry-run shows what could go',
  };
}

function nearestExisting(directory: string): string {
  return existsSync(directory) ? directory : nearestExisting(path.dirname(directory));
}
