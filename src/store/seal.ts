/**
 * The seal of a generation: a keyed checksum (HMAC-SHA256) of its manifest, made with the user's key (seal-key.ts). It
 * distinguishes what vmckpt saved for this user from what was imported, copied from elsewhere or edited, and so decides
 * whether the saved command line may run unchanged. Memory and device state are not sealed: their checksums detect
 * damage, not malice.
 */
import path from 'node:path';
import * as v from 'valibot';
import { errnoOf, fsyncPath, writeFailure, writeNewFile } from '../checkpoint/files.js';
import { readEncodedManifest, type Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { crypto } from '../util/crypto.js';
import { readRegular } from '../util/regular-file.js';
import { hmac, readSealKey, sealKeyFile, type SealKey } from './seal-key.js';

const SEAL_FILE = 'seal';
const MAX_SEAL_BYTES = 4096;
/** Prefix of what is sealed, because the same key may one day seal other things. */
const DOMAIN = 'vmckpt manifest seal 1\n';

const schema = v.object({
  sealVersion: v.literal(1),
  algorithm: v.literal('hmac-sha256'),
  keyId: v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/)),
  tag: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
});

export type SealVerdict =
  /** vmckpt saved it for this user, and the manifest is unchanged. */
  | { readonly status: 'own' }
  | {
      readonly status: 'missing' | 'other-key' | 'changed' | 'unreadable';
      /** A clause: "it has no seal". */
      readonly reason: string;
    };

export interface SealedManifest {
  readonly manifest: Manifest;
  /** Judges exactly the bytes that the manifest was read from. */
  readonly judgeSeal: () => SealVerdict;
}

/** @throws VmckptError as readManifest() */
export function readSealedManifest(dir: string): SealedManifest {
  const { manifest, encoded } = readEncodedManifest(dir);
  return { manifest, judgeSeal: () => judgeSealIn(dir, { manifest, encoded }) };
}

/** Judges the seal in a folder as that of a manifest, which may be elsewhere. */
export function judgeSealIn(
  dir: string,
  { manifest, encoded }: { readonly manifest: Manifest; readonly encoded: Uint8Array },
): SealVerdict {
  return judgeSeal(dir, { encoded, whyMissing: whyMissing(manifest) });
}

/** Why it was probably never sealed. */
function whyMissing({ mode, process: saved }: Manifest): string {
  if (mode === 'import') return 'it was imported, and has no seal';
  return saved === undefined || saved.uid === process.geteuid?.()
    ? 'it has no seal'
    : `it has no seal: QEMU ran as the user ${saved.uid}`;
}

/**
 * Writes the seal before the generation is committed. It is durable when this resolves.
 * @throws VmckptError NO_SPACE, STORE_NOT_WRITABLE, FAILED
 */
export async function writeSeal(dir: string, encodedManifest: Uint8Array, key: SealKey): Promise<void> {
  const tag = tagOf(encodedManifest, key).toString('hex');
  const seal = { sealVersion: 1, algorithm: 'hmac-sha256', keyId: key.id, tag };
  try {
    await writeNewFile(path.join(dir, SEAL_FILE), Buffer.from(`${JSON.stringify(seal)}\n`));
    await fsyncPath(dir);
  } catch (error) {
    throw writeFailure(error, dir);
  }
}

function judgeSeal(
  dir: string,
  { encoded, whyMissing: reason }: { readonly encoded: Uint8Array; readonly whyMissing: string },
): SealVerdict {
  let key: SealKey | undefined;
  let text: string | undefined;
  try {
    text = readSealFile(path.join(dir, SEAL_FILE));
    if (text === undefined) return { status: 'missing', reason };
    key = readSealKey();
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    return { status: 'unreadable', reason: error.message };
  }
  const seal = parseSeal(text);
  if (seal === undefined) return { status: 'unreadable', reason: 'its seal is damaged' };
  if (key === undefined)
    return { status: 'other-key', reason: `this user has no key to verify its seal with (${sealKeyFile()})` };
  if (seal.keyId !== key.id)
    return { status: 'other-key', reason: `it was sealed with another key than ${sealKeyFile()}` };
  return crypto().timingSafeEqual(Buffer.from(seal.tag, 'hex'), tagOf(encoded, key))
    ? { status: 'own' }
    : { status: 'changed', reason: 'its manifest was changed after it was sealed' };
}

function tagOf(encodedManifest: Uint8Array, { secret }: SealKey): Buffer {
  return hmac(secret, DOMAIN, encodedManifest);
}

function parseSeal(text: string): v.InferOutput<typeof schema> | undefined {
  try {
    return v.parse(schema, JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** @returns undefined when there is none. @throws VmckptError NOT_A_FILE, FAILED when it cannot be read */
function readSealFile(file: string): string | undefined {
  try {
    return readRegular(file, MAX_SEAL_BYTES)?.toString('latin1') ?? '';
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT') return undefined;
    if (error instanceof VmckptError || errno === undefined) throw error;
    throw new VmckptError('FAILED', `its seal cannot be read (${errno})`, { cause: error });
  }
}
