/** Copies a generation from elsewhere into a folder, as it is: damage comes along. */
import { mkdir, open } from 'node:fs/promises';
import path from 'node:path';
import { DIRECTORY_MODE, FILE_MODE, writeFailure, writeNewFile } from '../checkpoint/files.js';
import { GENERATION_FILES, packFile } from '../checkpoint/format.js';
import { decodeManifest, fileBytesOf } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { MAX_RANGE_BYTES, type OpenedGeneration, type RemoteStore } from './contracts.js';

const PACK = packFile('');

export interface CopyOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/**
 * Its manifest, and all that the manifest names.
 * @param dir is made
 * @throws VmckptError MANIFEST_DAMAGED, FORMAT_UNSUPPORTED, FILE_MISSING; as RemoteStore.read(); NO_SPACE; the signal's reason
 */
export async function copyHere(
  store: RemoteStore,
  opened: OpenedGeneration,
  dir: string,
  { signal, onProgress }: CopyOptions = {},
): Promise<void> {
  const label = `${opened.name}/${opened.number}`;
  const manifest = decodeManifest(Buffer.from(opened.manifest), label);
  if (manifest.formatVersion === 1)
    throw new VmckptError(
      'FORMAT_UNSUPPORTED',
      `${label} has format version 1, which is not read from elsewhere`,
    );
  const files = Object.entries(fileBytesOf(manifest));
  const totalBytes = files.reduce((sum, [, bytes]) => sum + bytes, 0);
  let doneBytes = 0;
  const onBytes = (bytes: number) => onProgress?.((doneBytes += bytes), totalBytes);
  try {
    await mkdir(dir, { recursive: true, mode: DIRECTORY_MODE });
    await writeNewFile(path.join(dir, GENERATION_FILES.manifest), opened.manifest);
    for (const name of ['deviceState', 'pageChunks'] as const) {
      const file = GENERATION_FILES[name];
      const bytes = await opened.readFile(file, undefined, { lane: 'rest', signal });
      if (bytes === undefined) throw new VmckptError('FILE_MISSING', `${label} has no file "${file}"`);
      await writeNewFile(path.join(dir, file), bytes);
      onBytes(bytes.length);
    }
    for (const [file, bytes] of files)
      if (file.startsWith(PACK)) await copyPack(store, { file, bytes, dir, signal, onBytes });
  } catch (error) {
    throw writeFailure(error, dir);
  }
}

interface PackCopy {
  readonly file: string;
  readonly bytes: number;
  readonly dir: string;
  readonly signal: AbortSignal | undefined;
  readonly onBytes: (bytes: number) => void;
}

async function copyPack(store: RemoteStore, { file, bytes, dir, signal, onBytes }: PackCopy): Promise<void> {
  const packId = file.slice(PACK.length);
  const handle = await open(path.join(dir, file), 'wx', FILE_MODE);
  try {
    for (let offset = 0; offset < bytes; offset += MAX_RANGE_BYTES) {
      const length = Math.min(MAX_RANGE_BYTES, bytes - offset);
      const read = await store.read({ packId, offset, length }, { lane: 'rest', signal });
      await handle.writev([read], offset);
      onBytes(length);
    }
  } finally {
    await handle.close();
  }
}
