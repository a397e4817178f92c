/** A store in a bucket of an S3 engine, by the contract of stores elsewhere. keys.ts says where its parts lie. */
import { packFile } from '../../checkpoint/format.js';
import { decodeManifest, listedFacts, type Format2Manifest } from '../../checkpoint/manifest.js';
import { DAMAGE_HINT, VmckptError } from '../../errors.js';
import { parseReference, requireName } from '../../store/reference.js';
import type {
  DeletedFiles,
  OpenedGeneration,
  PackRange,
  Push,
  PushedGeneration,
  ReadOptions,
  RemoteGeneration,
  RemoteStore,
} from '../contracts.js';
import { parseBucketAddress } from './address.js';
import { inTurns } from './in-turns.js';
import { Bucket } from './bucket.js';
import { requireConditions } from './conditions.js';
import { CHECKPOINTS, generationsOf, manifestKey, packKey, parseManifestKey, removedKey } from './keys.js';
import { leaseForWriting } from './lease.js';
import { S3Generation } from './opened.js';
import { DEFAULT_PART_BYTES } from './upload.js';
import { S3Push } from './push.js';
import { pruneBucket } from './prune.js';

export interface S3StoreOptions {
  /** Of files that are put; at least MIN_PART_BYTES. */
  readonly partBytes?: number;
}

interface Found extends PushedGeneration {
  readonly encoded: Buffer;
  readonly manifest: Format2Manifest;
}

export class S3Store implements RemoteStore {
  readonly #bucket: Bucket;
  readonly #partBytes: number;
  readonly #opened = new Set<S3Generation>();
  readonly #pushes = new Set<Push>();
  #conditions: Promise<void> | undefined;

  constructor(bucket: Bucket, { partBytes = DEFAULT_PART_BYTES }: S3StoreOptions = {}) {
    this.#bucket = bucket;
    this.#partBytes = partBytes;
  }

  /** Nothing is asked yet. @throws VmckptError USAGE, S3_CLIENT_MISSING */
  static async open(address: string, options?: S3StoreOptions): Promise<S3Store> {
    return new S3Store(await Bucket.open(parseBucketAddress(address)), options);
  }

  get label(): string {
    return this.#bucket.label;
  }

  async have(packIds: readonly string[]): Promise<ReadonlySet<string>> {
    const found = await inTurns(packIds, (id) => this.#bucket.find(packKey(id)));
    return new Set(packIds.filter((_id, at) => found[at] !== undefined));
  }

  async read({ packId, offset, length }: PackRange, { signal }: ReadOptions): Promise<Uint8Array> {
    signal?.throwIfAborted();
    const isOpened = [...this.#opened].some(({ packIds }) => packIds.has(packId));
    if (length === 0 && isOpened) return Buffer.alloc(0);
    const found = isOpened ? await this.#bucket.read(packKey(packId), { offset, length }, signal) : undefined;
    if (found === undefined)
      throw new VmckptError('NO_PACK', `${this.label}: no generation that is open has the pack ${packId}`);
    if (found.length === length) return found;
    const end = offset + found.length;
    throw new VmckptError('EXTENT_DAMAGED', `${this.label}: ${packFile(packId)} ends before ${end + 1}`, {
      hint: DAMAGE_HINT,
    });
  }

  async list(): Promise<RemoteGeneration[]> {
    const numbered = manifestsAmong(await this.#bucket.list(CHECKPOINTS));
    const listed = await inTurns(numbered, (each) => this.#summaryOf(each));
    return listed
      .filter((generation) => generation !== undefined)
      .sort((a, b) => (a.name === b.name ? a.generation - b.generation : a.name < b.name ? -1 : 1));
  }

  async open(reference: string): Promise<OpenedGeneration> {
    const onClose = (closed: S3Generation) => this.#opened.delete(closed);
    const opened = await S3Generation.open({
      ...(await this.#locate(reference)),
      bucket: this.#bucket,
      onClose,
    });
    this.#opened.add(opened);
    return opened;
  }

  async push(generation: PushedGeneration): Promise<Push> {
    requireName(generation.name, 'a checkpoint');
    await this.#requireConditions();
    const push = await S3Push.begin(generation, { bucket: this.#bucket, partBytes: this.#partBytes });
    this.#pushes.add(push);
    return push;
  }

  /** Its manifest goes; the rest stays for those who read it, until it is pruned. */
  async remove(reference: string): Promise<void> {
    if (parseReference(reference).generation === undefined)
      throw new VmckptError('USAGE', `"${reference}" names no generation`, {
        hint: `Name the generation to delete: ${reference}@GENERATION.`,
      });
    await this.#requireConditions();
    const found = await this.#locate(reference);
    const lease = await leaseForWriting(this.#bucket, found);
    try {
      await this.#bucket.write(removedKey(found), found.encoded);
      await this.#bucket.delete(manifestKey(found));
    } finally {
      await lease.release();
    }
  }

  async deleteUnneeded(graceMs: number): Promise<DeletedFiles> {
    await this.#requireConditions();
    return pruneBucket(this.#bucket, graceMs);
  }

  async close(): Promise<void> {
    for (const push of this.#pushes) await push.close();
    this.#bucket.close();
  }

  #requireConditions(): Promise<void> {
    return (this.#conditions ??= requireConditions(this.#bucket));
  }

  /** Undefined for one that was removed in the meantime. */
  async #summaryOf(at: { name: string; number: number }): Promise<RemoteGeneration | undefined> {
    const { name, number: generation } = at;
    const found = await this.#bucket.read(manifestKey(at));
    if (found === undefined) return undefined;
    try {
      const facts = listedFacts(decodeManifest(found, `${name}/${generation}`));
      return { name, generation, facts, problem: undefined };
    } catch (error) {
      if (!(error instanceof VmckptError)) throw error;
      const { code, message } = error;
      return { name, generation, facts: undefined, problem: { code, message } };
    }
  }

  /** @throws VmckptError BAD_NAME, NO_CHECKPOINT, FORMAT_UNSUPPORTED, and as decodeManifest() */
  async #locate(reference: string): Promise<Found> {
    const { name, generation } = parseReference(reference);
    const number = generation ?? (await this.#newest(name));
    const found = number === undefined ? undefined : await this.#bucket.read(manifestKey({ name, number }));
    if (number === undefined || found === undefined)
      throw new VmckptError('NO_CHECKPOINT', `there is no checkpoint "${reference}" in ${this.label}`, {
        hint: `vmckpt list --store ${this.label} shows all checkpoints.`,
      });
    const manifest = decodeManifest(found, `${name}/${number}`);
    if (manifest.formatVersion === 1)
      throw new VmckptError('FORMAT_UNSUPPORTED', `${name}@${number} has format version 1, without packs`);
    return { name, number, id: manifest.id, encoded: found, manifest };
  }

  async #newest(name: string): Promise<number | undefined> {
    const numbered = manifestsAmong(await this.#bucket.list(generationsOf(name)));
    return numbered.reduce<number | undefined>(
      (newest, { number }) => Math.max(newest ?? 0, number),
      undefined,
    );
  }
}

function manifestsAmong(objects: readonly { readonly key: string }[]): { name: string; number: number }[] {
  return objects.map(({ key }) => parseManifestKey(key)).filter((found) => found !== undefined);
}
