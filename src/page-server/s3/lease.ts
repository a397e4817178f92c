/**
 * A lock that consists of objects: KEY/1, KEY/2 … Who creates the one after the last holds it, and renews it; one that was
 * not renewed for some minutes may be followed by the next. Conditional writes keep two apart; the engine's clock says how
 * old an object is.
 */
import { hostname } from 'node:os';
import { VmckptError } from '../../errors.js';
import { randomU32 } from '../../util/random.js';
import type { Bucket, FoundObject } from './bucket.js';
import { PRUNING, writingKey, type Numbered } from './keys.js';

const LEASE_MS = 5 * 60_000;
const RENEW_EVERY_MS = 60_000;
/** By this much earlier its holder regards a lease as lost: engines tell their time in whole seconds. */
const MARGIN_MS = 30_000;

export class Lease {
  readonly #bucket: Bucket;
  readonly #key: string;
  readonly #content: Buffer;
  readonly #timer: NodeJS.Timeout;
  #renewedMs: number;
  #renewing: Promise<void> = Promise.resolve();

  private constructor(bucket: Bucket, key: string, taken: { content: Buffer; askedMs: number }) {
    this.#bucket = bucket;
    this.#key = key;
    this.#content = taken.content;
    this.#renewedMs = taken.askedMs;
    this.#timer = setInterval(() => void (this.#renewing = this.#renew()), RENEW_EVERY_MS).unref();
  }

  /** @param what completes "… by process 7 on host": `web@3 is being written`. @throws VmckptError STORE_LOCKED, and as Bucket */
  static async take(bucket: Bucket, key: string, what: string): Promise<Lease> {
    const earlier = await bucket.list(`${key}/`);
    await refuseFresh(bucket, earlier, what);
    const askedMs = performance.now();
    const content = holderText();
    const own = `${key}/${numberAfter(earlier)}`;
    // The SDK repeats a request whose answer was lost, and the first one may have succeeded.
    if (!(await bucket.create(own, content)) && (await bucket.read(own))?.equals(content) !== true)
      throw new VmckptError('STORE_LOCKED', `${what} by another process`, { hint: 'Try again.' });
    const lease = new Lease(bucket, own, { content, askedMs });
    try {
      // Another one may have been released, and taken with a lower number, since they were listed.
      const others = (await bucket.list(`${key}/`)).filter((object) => object.key !== own);
      await refuseFresh(bucket, others, what);
      for (const other of others) await bucket.delete(other.key);
      return lease;
    } catch (error) {
      await lease.release();
      throw error;
    }
  }

  /** @throws VmckptError STORE_LOCKED when another one holds it */
  static async requireFree(bucket: Bucket, key: string, what: string): Promise<void> {
    await refuseFresh(bucket, await bucket.list(`${key}/`), what);
  }

  /** @throws VmckptError STORE_LOCKED when it was not renewed in time: another one may hold it now */
  requireHeld(): void {
    if (this.#isHeld) return;
    throw new VmckptError('STORE_LOCKED', `the lease ${this.#key} of this process has ended`, {
      hint: 'The store could not be reached for some minutes. Try again.',
    });
  }

  async release(): Promise<void> {
    clearInterval(this.#timer);
    await this.#renewing;
    await this.#bucket.delete(this.#key);
  }

  get #isHeld(): boolean {
    return performance.now() - this.#renewedMs < LEASE_MS - MARGIN_MS;
  }

  /** One that has ended stays so. */
  async #renew(): Promise<void> {
    const askedMs = performance.now();
    if (!this.#isHeld) return;
    try {
      await this.#bucket.write(this.#key, this.#content);
      this.#renewedMs = askedMs;
    } catch (error) {
      // It is tried again; requireHeld() tells when it was in vain.
      if (!(error instanceof VmckptError)) throw error;
    }
  }
}

/**
 * For who pushes or removes a generation: no other one does, and nothing is pruned meanwhile.
 * @throws VmckptError STORE_LOCKED, and as Bucket
 */
export async function leaseForWriting(bucket: Bucket, generation: Numbered): Promise<Lease> {
  const { name, number } = generation;
  const lease = await Lease.take(bucket, writingKey(generation), `${name}@${number} is being written`);
  try {
    await Lease.requireFree(bucket, PRUNING, `${bucket.label} is being pruned`);
    return lease;
  } catch (error) {
    await lease.release();
    throw error;
  }
}

/** @throws VmckptError STORE_LOCKED when one of them was renewed lately */
export async function refuseFresh(
  bucket: Bucket,
  objects: readonly FoundObject[],
  what: string,
): Promise<void> {
  const fresh = objects.find(({ modifiedMs }) => bucket.nowMs - modifiedMs < LEASE_MS);
  if (fresh === undefined) return;
  const content = await bucket.read(fresh.key);
  const [holder] = content?.toString('utf8').split('\n') ?? [];
  throw new VmckptError('STORE_LOCKED', `${what} by ${holder ?? 'another process'}`, {
    hint: `Wait until it has finished. If it has died, its lease ends within ${LEASE_MS / 60_000} minutes.`,
  });
}

function numberAfter(objects: readonly FoundObject[]): number {
  return 1 + Math.max(0, ...objects.map(({ key }) => Number(key.slice(key.lastIndexOf('/') + 1)) || 0));
}

function holderText(): Buffer {
  return Buffer.from(`process ${process.pid} on ${hostname()}\n${randomU32()}-${randomU32()}\n`);
}
