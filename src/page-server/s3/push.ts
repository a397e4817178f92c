/**
 * A generation on its way into a bucket. Its files and packs are put first, its manifest last and only if its number is
 * free: then it is there. A lease keeps another push of it away, and pruning.
 */
import { GENERATION_FILES, holdsExtents } from '../../checkpoint/format.js';
import {
  MAX_MANIFEST_BYTES,
  decodeManifest,
  fileBytesOf,
  type Format2Manifest,
} from '../../checkpoint/manifest.js';
import { VmckptError } from '../../errors.js';
import { SMALL_FILES, type Push, type PushedGeneration } from '../contracts.js';
import type { Bucket } from './bucket.js';
import { filesOf, manifestKey, packKey } from './keys.js';
import { leaseForWriting, type Lease } from './lease.js';
import { Upload } from './upload.js';

const PACK = /^pack-([0-9a-f]{32})$/;

export interface S3PushOptions {
  readonly bucket: Bucket;
  readonly partBytes: number;
}

export class S3Push implements Push {
  readonly #bucket: Bucket;
  readonly #partBytes: number;
  readonly #generation: PushedGeneration;
  readonly #uploads = new Map<string, Promise<Upload>>();
  #lease: Lease | undefined;
  #manifest = Buffer.alloc(0);
  #isCommitted: boolean;

  private constructor(
    generation: PushedGeneration,
    { bucket, partBytes, lease }: S3PushOptions & { readonly lease: Lease | undefined },
  ) {
    this.#bucket = bucket;
    this.#partBytes = partBytes;
    this.#generation = generation;
    this.#lease = lease;
    this.#isCommitted = lease === undefined;
  }

  /** @throws VmckptError GENERATION_DIFFERS, STORE_LOCKED, and as Bucket */
  static async begin(generation: PushedGeneration, options: S3PushOptions): Promise<S3Push> {
    const { bucket } = options;
    if (await isThere(bucket, generation)) return new S3Push(generation, { ...options, lease: undefined });
    return new S3Push(generation, { ...options, lease: await leaseForWriting(bucket, generation) });
  }

  get isCommitted(): boolean {
    return this.#isCommitted;
  }

  /** Parts that are not whole do not outlast this object. */
  async receivedBytes(file: string): Promise<number> {
    if (file === GENERATION_FILES.manifest) return this.#manifest.length;
    const key = this.#keyOf(file);
    const mayBeThere = PACK.test(file) && !this.#uploads.has(file);
    const there = mayBeThere ? await this.#bucket.find(key) : undefined;
    return there?.bytes ?? (await this.#upload(file)).bytes;
  }

  async put(file: string, offset: number, bytes: Uint8Array): Promise<void> {
    const receivedBytes = await this.receivedBytes(file);
    if (offset !== receivedBytes) throw misplaced(file, receivedBytes, offset);
    if (file === GENERATION_FILES.manifest) return this.#appendManifest(bytes);
    // A pack that is there is complete.
    if (bytes.length === 0 && offset > 0) return;
    const upload = await this.#upload(file);
    if (offset !== upload.bytes) throw misplaced(file, upload.bytes, offset);
    await upload.append(bytes);
  }

  async commit(): Promise<void> {
    if (this.#isCommitted) return;
    const manifest = this.#decodedManifest();
    for (const upload of this.#uploads.values()) await (await upload).finish();
    await this.#requireFiles(manifest);
    this.#lease?.requireHeld();
    const key = manifestKey(this.#generation);
    const isFirst = await this.#bucket.create(key, this.#manifest);
    if (!isFirst && !(await isThere(this.#bucket, this.#generation)))
      throw new VmckptError('STORE_LOCKED', `${key} is being written by others`, { hint: 'Try again.' });
    this.#isCommitted = true;
  }

  async close(): Promise<void> {
    const uploads = await Promise.all(this.#uploads.values());
    await Promise.all(uploads.map((upload) => upload.settle()));
    this.#uploads.clear();
    await this.#lease?.release();
    this.#lease = undefined;
  }

  #appendManifest(bytes: Uint8Array): void {
    if (this.#manifest.length + bytes.length > MAX_MANIFEST_BYTES)
      throw new VmckptError('FAILED', `a manifest has at most ${MAX_MANIFEST_BYTES} bytes`);
    this.#manifest = Buffer.concat([this.#manifest, bytes]);
  }

  #upload(file: string): Promise<Upload> {
    let upload = this.#uploads.get(file);
    if (upload === undefined) {
      upload = Upload.open(this.#bucket, this.#keyOf(file), this.#partBytes);
      upload.catch(() => this.#uploads.delete(file));
      this.#uploads.set(file, upload);
    }
    return upload;
  }

  /** @throws VmckptError FAILED for a name that no file of a generation has */
  #keyOf(file: string): string {
    const [, packId] = PACK.exec(file) ?? [];
    if (packId !== undefined) return packKey(packId);
    if ((SMALL_FILES as readonly string[]).includes(file)) return `${filesOf(this.#generation)}${file}`;
    throw new VmckptError('FAILED', `no file of a generation is called ${JSON.stringify(file)}`);
  }

  /** @throws VmckptError FILE_MISSING, GENERATION_DIFFERS, FORMAT_UNSUPPORTED, and as decodeManifest() */
  #decodedManifest(): Format2Manifest {
    const { name, number, id } = this.#generation;
    if (this.#manifest.length === 0)
      throw new VmckptError('FILE_MISSING', 'the generation that is pushed has no manifest');
    const manifest = decodeManifest(this.#manifest, `${name}/${number}`);
    if (manifest.id !== id)
      throw new VmckptError(
        'GENERATION_DIFFERS',
        `what was put as ${name}@${number} is ${manifest.id}, not ${id}`,
      );
    if (manifest.formatVersion === 2) return manifest;
    throw new VmckptError('FORMAT_UNSUPPORTED', `${name}@${number} has format version 1, without packs`, {
      hint: 'Save the VM again, and push that.',
    });
  }

  /** An engine cannot verify checksums: who reads does. @throws VmckptError NO_PACK, FILE_MISSING, INDEX_DAMAGED, EXTENT_DAMAGED */
  async #requireFiles(manifest: Format2Manifest): Promise<void> {
    const { name, number } = this.#generation;
    const expected = Object.entries(fileBytesOf(manifest));
    await Promise.all(
      expected.map(async ([file, bytes]) => {
        const found = await this.#bucket.find(this.#keyOf(file));
        if (found?.bytes === bytes) return;
        const isPack = holdsExtents(file);
        if (found === undefined)
          throw new VmckptError(
            isPack ? 'NO_PACK' : 'FILE_MISSING',
            `${file} of ${name}@${number} has not arrived`,
          );
        throw new VmckptError(
          isPack ? 'EXTENT_DAMAGED' : 'INDEX_DAMAGED',
          `${this.#bucket.label}: ${file} of ${name}@${number} has ${found.bytes} bytes, ${bytes} expected`,
        );
      }),
    );
  }
}

function misplaced(file: string, receivedBytes: number, offset: number): VmckptError {
  return new VmckptError('FAILED', `${file} has ${receivedBytes} bytes, ${offset} expected`);
}

/** Whether the generation is there. @throws VmckptError GENERATION_DIFFERS when another one has its number */
async function isThere(bucket: Bucket, generation: PushedGeneration): Promise<boolean> {
  const { name, number, id } = generation;
  const found = await bucket.read(manifestKey(generation));
  if (found === undefined) return false;
  if (decodeManifest(found, `${name}/${number}`).id === id) return true;
  throw new VmckptError('GENERATION_DIFFERS', `another generation is ${name}@${number} in ${bucket.label}`, {
    hint: 'Push under another name with --as, or remove the other one with vmckpt rm.',
  });
}
