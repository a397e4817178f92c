/**
 * The user's key, which seals what vmckpt saves for this user (see seal.ts): 32 random bytes in a file of the state
 * folder that only this user may read. The first save makes it. It is never printed and never leaves this process: a
 * KeyObject does not show its bytes.
 */
import type { KeyObject } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { DIRECTORY_MODE, errnoOf, fsyncPath, readAt, writeNewFile } from '../checkpoint/files.js';
import { VmckptError } from '../errors.js';
import { crypto } from '../util/crypto.js';
import { openRegular } from '../util/regular-file.js';
import { stateDir } from '../util/user-folders.js';

const KEY_BYTES = 32;
const OPEN_TO_OTHERS = 0o077;
const WRITABLE_BY_OTHERS = 0o022;

export interface SealKey {
  /** Distinguishes keys without revealing anything about them. */
  readonly id: string;
  readonly secret: KeyObject;
}

export function sealKeyFile(): string {
  return path.join(stateDir(), 'seal-key');
}

/**
 * @returns undefined when this user has none. @throws VmckptError NOT_PERMITTED when others can read or change it,
 * NOT_A_FILE
 */
export function readSealKey(): SealKey | undefined {
  const file = sealKeyFile();
  let fd: number;
  try {
    requireOwn(path.dirname(file), fs.statSync(path.dirname(file)), WRITABLE_BY_OTHERS);
    fd = openRegular(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw unusable(file, error);
  }
  try {
    requireOwn(file, fs.fstatSync(fd), OPEN_TO_OTHERS);
    const bytes = Buffer.alloc(KEY_BYTES + 1);
    if (readAt(fd, bytes, 0) !== KEY_BYTES)
      throw new VmckptError('NOT_PERMITTED', `${file} cannot be used: it is not a key of ${KEY_BYTES} bytes`);
    const secret = crypto().createSecretKey(bytes.subarray(0, KEY_BYTES));
    bytes.fill(0);
    return { id: hmac(secret, 'vmckpt key id').subarray(0, 8).toString('hex'), secret };
  } finally {
    fs.closeSync(fd);
  }
}

/**
 * If two processes make the key at once, one succeeds and both use that key.
 * @throws VmckptError NOT_PERMITTED as readSealKey() and where it cannot be written, NO_SPACE, FAILED
 */
export async function ensureSealKey(): Promise<SealKey> {
  const file = sealKeyFile();
  const temporary = path.join(path.dirname(file), `.seal-key-${crypto().randomBytes(8).toString('hex')}`);
  const known = readSealKey();
  if (known !== undefined) return known;
  try {
    makeFolder(path.dirname(file));
    try {
      await writeNewFile(temporary, crypto().randomBytes(KEY_BYTES));
      linkIfFree(temporary, file);
      await fsyncPath(path.dirname(file));
    } finally {
      fs.rmSync(temporary, { force: true });
    }
  } catch (error) {
    throw unusable(file, error);
  }
  return readSealKey()!;
}

export function hmac(secret: KeyObject, ...parts: readonly (string | Uint8Array)[]): Buffer {
  const code = crypto().createHmac('sha256', secret);
  for (const part of parts) code.update(part);
  return code.digest();
}

/** Unlike a rename, never replaces an existing key. */
function linkIfFree(from: string, to: string): void {
  try {
    fs.linkSync(from, to);
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

/** Step by step: a recursive mkdir() reports a read-only file system as a missing parent. */
function makeFolder(dir: string): void {
  if (fs.existsSync(dir)) return;
  makeFolder(path.dirname(dir));
  try {
    fs.mkdirSync(dir, { mode: DIRECTORY_MODE });
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

function requireOwn(file: string, { uid, mode }: fs.Stats, othersMayNot: number): void {
  const user = process.getuid?.();
  if (uid === user && (mode & othersMayNot) === 0) return;
  const permissions = (mode & 0o777).toString(8).padStart(3, '0');
  const why =
    uid === user
      ? `other users may read or change it (mode ${permissions})`
      : `it belongs to user ${uid}, and this is user ${user}`;
  throw new VmckptError('NOT_PERMITTED', `${file} cannot be used: ${why}`, {
    hint: 'Remove it: the next save makes a new one.',
  });
}

function unusable(file: string, error: unknown): VmckptError {
  if (error instanceof VmckptError) return error;
  const code = ['ENOSPC', 'EDQUOT'].includes(errnoOf(error) ?? '') ? 'NO_SPACE' : 'NOT_PERMITTED';
  const reason = error instanceof Error ? error.message : String(error);
  return new VmckptError(code, `${file} cannot be used: ${reason}`, { cause: error });
}
