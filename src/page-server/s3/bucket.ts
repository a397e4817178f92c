/** The objects below one prefix of a bucket. Every method fails with what requestFailure() makes of an error. */
import { setMaxListeners } from 'node:events';
import { VmckptError } from '../../errors.js';
import type { Range } from '../contracts.js';
import { formatBucketAddress, type BucketAddress } from './address.js';
import { openClient, requestFailure, type S3 } from './client.js';

/** Of an answer that breaks off; the SDK repeats requests, but not what follows a good beginning. */
const READ_ATTEMPTS = 3;

export interface FoundObject {
  readonly key: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/** An object that arrives in parts. */
export interface MultipartUpload {
  readonly key: string;
  readonly uploadId: string;
  readonly begunMs: number;
}

export interface UploadedPart {
  /** From 1. */
  readonly number: number;
  readonly bytes: number;
  readonly etag: string;
}

export class Bucket {
  readonly label: string;
  readonly #address: BucketAddress;
  readonly #s3: S3;
  readonly #closing = new AbortController();

  private constructor(address: BucketAddress, s3: S3) {
    this.label = formatBucketAddress(address);
    this.#address = address;
    this.#s3 = s3;
    // One for each request that is under way.
    setMaxListeners(0, this.#closing.signal);
  }

  /** Nothing is asked yet. @throws VmckptError S3_CLIENT_MISSING */
  static async open(address: BucketAddress): Promise<Bucket> {
    return new Bucket(address, await openClient());
  }

  /** By the engine's clock. */
  get nowMs(): number {
    return Date.now() + this.#s3.aheadMs;
  }

  /**
   * @returns undefined when there is no such object; fewer bytes where it ends before `range` does
   * @throws VmckptError; the signal's reason
   */
  async read(key: string, range?: Range, signal?: AbortSignal): Promise<Buffer | undefined> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#readOnce(key, range, signal);
      } catch (error) {
        const isRetryable = error instanceof VmckptError && error.code === 'SOURCE_UNAVAILABLE';
        if (!isRetryable || attempt === READ_ATTEMPTS || this.#closing.signal.aborted) throw error;
      }
    }
  }

  async find(key: string): Promise<FoundObject | undefined> {
    const { sdk } = this.#s3;
    return this.#answer(async (Bucket, abortSignal) => {
      const command = new sdk.HeadObjectCommand({ Bucket, Key: this.#keyOf(key) });
      const found = await orMissing(this.#s3.client.send(command, { abortSignal }));
      return (
        found && { key, bytes: found.ContentLength ?? 0, modifiedMs: found.LastModified?.getTime() ?? 0 }
      );
    });
  }

  /** In the order of their keys. */
  async list(prefix: string): Promise<FoundObject[]> {
    const { sdk, client } = this.#s3;
    return this.#answer(async (Bucket, abortSignal) => {
      const found: FoundObject[] = [];
      const input = { Bucket, Prefix: this.#keyOf(prefix) };
      for await (const page of sdk.paginateListObjectsV2({ client }, input, { abortSignal }))
        for (const { Key = '', Size = 0, LastModified } of page.Contents ?? [])
          found.push({ key: this.#relative(Key), bytes: Size, modifiedMs: LastModified?.getTime() ?? 0 });
      return found;
    });
  }

  async write(key: string, content: Uint8Array): Promise<void> {
    const { sdk, client } = this.#s3;
    await this.#answer(async (Bucket, abortSignal) => {
      const command = new sdk.PutObjectCommand({ Bucket, Key: this.#keyOf(key), Body: content });
      await client.send(command, { abortSignal });
    });
  }

  /** Writes an object unless there is one; of several writers one succeeds. @returns whether it did */
  async create(key: string, content: Uint8Array): Promise<boolean> {
    const { sdk, client } = this.#s3;
    return this.#answer(async (Bucket, abortSignal) => {
      const place = { Bucket, Key: this.#keyOf(key) };
      const command = new sdk.PutObjectCommand({ ...place, Body: content, IfNoneMatch: '*' });
      try {
        await client.send(command, { abortSignal });
        return true;
      } catch (error) {
        if (isConflict(error)) return false;
        throw error;
      }
    });
  }

  /** Does nothing when there is no such object. */
  async delete(key: string): Promise<void> {
    const { sdk, client } = this.#s3;
    await this.#answer(async (Bucket, abortSignal) =>
      client.send(new sdk.DeleteObjectCommand({ Bucket, Key: this.#keyOf(key) }), { abortSignal }),
    );
  }

  /** Those that have begun and not ended. */
  async uploads(prefix: string): Promise<MultipartUpload[]> {
    const { sdk, client } = this.#s3;
    return this.#answer(async (Bucket, abortSignal) => {
      const found: MultipartUpload[] = [];
      let after: { KeyMarker?: string; UploadIdMarker?: string } = {};
      for (;;) {
        const input = { Bucket, Prefix: this.#keyOf(prefix), ...after };
        const page = await client.send(new sdk.ListMultipartUploadsCommand(input), { abortSignal });
        for (const { Key = '', UploadId = '', Initiated } of page.Uploads ?? [])
          found.push({ key: this.#relative(Key), uploadId: UploadId, begunMs: Initiated?.getTime() ?? 0 });
        if (page.IsTruncated !== true) return found;
        after = { KeyMarker: page.NextKeyMarker ?? '', UploadIdMarker: page.NextUploadIdMarker ?? '' };
      }
    });
  }

  async beginUpload(key: string): Promise<string> {
    const { sdk, client } = this.#s3;
    return this.#answer(async (Bucket, abortSignal) => {
      const command = new sdk.CreateMultipartUploadCommand({ Bucket, Key: this.#keyOf(key) });
      return (await client.send(command, { abortSignal })).UploadId ?? '';
    });
  }

  /** In their order. */
  async parts(key: string, uploadId: string): Promise<UploadedPart[]> {
    const { sdk, client } = this.#s3;
    return this.#answer(async (Bucket, abortSignal) => {
      const found: UploadedPart[] = [];
      let after: { PartNumberMarker?: string } = {};
      for (;;) {
        const input = { Bucket, Key: this.#keyOf(key), UploadId: uploadId, ...after };
        const page = await client.send(new sdk.ListPartsCommand(input), { abortSignal });
        for (const { PartNumber = 0, Size = 0, ETag = '' } of page.Parts ?? [])
          found.push({ number: PartNumber, bytes: Size, etag: ETag });
        // Ceph names the next one after the last one, too, where the SDK's paginator would go on for ever.
        if (page.IsTruncated !== true) return found;
        after = { PartNumberMarker: page.NextPartNumberMarker ?? '' };
      }
    });
  }

  async writePart(
    { key, uploadId, number }: { key: string; uploadId: string; number: number },
    content: Uint8Array,
  ): Promise<UploadedPart> {
    const { sdk, client } = this.#s3;
    return this.#answer(async (Bucket, abortSignal) => {
      const place = { Bucket, Key: this.#keyOf(key), UploadId: uploadId, PartNumber: number };
      const { ETag = '' } = await client.send(new sdk.UploadPartCommand({ ...place, Body: content }), {
        abortSignal,
      });
      return { number, bytes: content.length, etag: ETag };
    });
  }

  /** @returns whether the upload was still there */
  async endUpload(key: string, uploadId: string, parts: readonly UploadedPart[]): Promise<boolean> {
    const { sdk, client } = this.#s3;
    const Parts = parts.map(({ number, etag }) => ({ PartNumber: number, ETag: etag }));
    return this.#answer(async (Bucket, abortSignal) => {
      const place = { Bucket, Key: this.#keyOf(key), UploadId: uploadId };
      const command = new sdk.CompleteMultipartUploadCommand({ ...place, MultipartUpload: { Parts } });
      return (await orMissing(client.send(command, { abortSignal }))) !== undefined;
    });
  }

  async abandonUpload({ key, uploadId }: MultipartUpload): Promise<void> {
    const { sdk, client } = this.#s3;
    await this.#answer(async (Bucket, abortSignal) => {
      const place = { Bucket, Key: this.#keyOf(key), UploadId: uploadId };
      await orMissing(client.send(new sdk.AbortMultipartUploadCommand(place), { abortSignal }));
    });
  }

  /** Requests that are under way fail with SOURCE_UNAVAILABLE. */
  close(): void {
    this.#closing.abort(new VmckptError('SOURCE_UNAVAILABLE', `${this.label} is closed`));
    this.#s3.client.destroy();
  }

  async #readOnce(key: string, range?: Range, signal?: AbortSignal): Promise<Buffer | undefined> {
    const { sdk, client } = this.#s3;
    const Range = range && `bytes=${range.offset}-${range.offset + range.length - 1}`;
    return this.#answer(async (Bucket, abortSignal) => {
      const command = new sdk.GetObjectCommand({ Bucket, Key: this.#keyOf(key), Range });
      const found = await orMissing(client.send(command, { abortSignal }).catch(emptyBeyondEnd));
      if (found === undefined) return undefined;
      return Buffer.from((await found.Body?.transformToByteArray()) ?? []);
    }, signal);
  }

  async #answer<T>(
    request: (bucket: string, abortSignal: AbortSignal) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    const { signal: closing } = this.#closing;
    const either = signal === undefined ? closing : AbortSignal.any([closing, signal]);
    either.throwIfAborted();
    try {
      return await request(this.#address.bucket, either);
    } catch (error) {
      if (either.aborted) throw either.reason;
      throw requestFailure(error, this.label);
    }
  }

  #keyOf(key: string): string {
    return `${this.#address.prefix}${key}`;
  }

  #relative(key: string): string {
    return key.slice(this.#address.prefix.length);
  }
}

async function orMissing<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (['NoSuchKey', 'NotFound', 'NoSuchUpload'].includes((error as Error).name)) return undefined;
    throw error;
  }
}

/** A range that begins where the object has ended. */
function emptyBeyondEnd(error: Error): { Body?: undefined } {
  if (error.name === 'InvalidRange') return {};
  throw error;
}

/** 412: there is one; 409: another writer is about to succeed. */
function isConflict(error: unknown): boolean {
  const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
  return status === 412 || status === 409;
}
