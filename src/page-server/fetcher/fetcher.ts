/**
 * The fetcher of a cache, from top to bottom: a process attaches to a generation; its sources are opened, and must agree on
 * its manifest; its beginning is fetched; it is shown. From then on what is demanded comes at once, what is predicted next,
 * and the rest if that was asked for. When all of it is here, it is an ordinary generation.
 */
import { rm } from 'node:fs/promises';
import { VmckptError } from '../../errors.js';
import type { Want } from '../cache-layout.js';
import type { Cache } from '../cache/cache.js';
import type { ArrivingPack } from '../cache/arriving-pack.js';
import type { Span } from '../cache/presence-file.js';
import type { RemoteStore } from '../contracts.js';
import { Attachment } from './attachment.js';
import {
  findCached,
  knownGeneration,
  place,
  publish,
  verifyBeginning,
  type CachedGeneration,
} from './bring.js';
import { FetchedPack } from './fetched-pack.js';
import { Fetching } from './fetching.js';
import type { AttachRequest } from './messages.js';
import { OpenedSources } from './opened-sources.js';
import { Source } from './source.js';
import type { Access } from '../open-store.js';

/** What is here is made durable so often. */
const DURABLE_EVERY_MS = 5000;
/** After a failed write. */
const RETRY_AFTER_MS = 1000;

export interface FetcherOptions {
  readonly cache: Cache;
  readonly openStore: (address: string, access: Access) => Promise<RemoteStore>;
  /** Wakes what waits for a range. */
  readonly onArrival: () => void;
}

export class Fetcher {
  readonly #options: FetcherOptions;
  readonly #fetching: Fetching;
  /** By address and access. */
  readonly #sources = new Map<string, Source>();
  /** Those that are arriving, or were when they were attached. */
  readonly #packs = new Map<ArrivingPack, FetchedPack>();
  readonly #attachments = new Set<Attachment>();
  /** One after the other: two of them may be about the same generation. */
  #attaching: Promise<unknown> = Promise.resolve();
  #problem: VmckptError | undefined;
  readonly #durability: NodeJS.Timeout;

  constructor(options: FetcherOptions) {
    this.#options = options;
    this.#fetching = new Fetching({
      onArrival: options.onArrival,
      onProgress: (pack) => void this.#onProgress(pack),
      onDamage: (pack, source, extent) => this.#onDamage(pack, source, extent),
      onFailure: (error) => void this.#onFailure(error),
    });
    this.#durability = setInterval(
      () => void options.cache.makeDurable().catch(() => undefined),
      DURABLE_EVERY_MS,
    );
  }

  /** Whether something waits for a range that no source can give now. */
  get isWaiting(): boolean {
    return this.#fetching.isWaiting;
  }

  /** @throws VmckptError SOURCE_UNAVAILABLE, NO_CHECKPOINT, GENERATION_DIFFERS, NO_SPACE, and others for what is damaged */
  attach(request: AttachRequest): Promise<Attachment> {
    const attached = this.#attaching.then(() => this.#attach(request));
    this.#attaching = attached.catch(() => undefined);
    return attached;
  }

  plan(attachment: Attachment, ranges: readonly (Span & { readonly packId: string })[]): void {
    const byId = new Map(attachment.packs.map((pack) => [pack.id, pack]));
    this.#fetching.predict(
      ranges.flatMap(({ packId, ...span }) => {
        const pack = byId.get(packId);
        return pack === undefined || span.offset + span.length > pack.arriving.pack.fileBytes
          ? []
          : [{ pack, span }];
      }),
    );
  }

  fill(attachment: Attachment): void {
    this.#fetching.fill(attachment.packs);
  }

  /** A record of the FIFO. */
  want({ packId, offset, length, lane, isAgain }: Want): void {
    for (const pack of this.#packs.values()) {
      if (pack.id !== packId || offset + length > pack.arriving.pack.fileBytes) continue;
      const span = { offset, length };
      if (lane === 'demand') this.#fetching.demand(pack, span, isAgain);
      else this.#fetching.predict([{ pack, span }]);
    }
  }

  async detach(attachment: Attachment): Promise<void> {
    await attachment.opened.close();
    await this.#leave(attachment);
  }

  async #leave(attachment: Attachment): Promise<void> {
    this.#attachments.delete(attachment);
    await this.#options.cache.leave(attachment.generation.key);
    for (const pack of attachment.packs) this.#leavePack(pack);
    for (const [key, source] of this.#sources) {
      if ([...this.#attachments].some(({ opened }) => opened.sources.includes(source))) continue;
      this.#sources.delete(key);
      await source.close();
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#durability);
    for (const attachment of this.#attachments) await this.detach(attachment);
    await this.#options.cache.makeDurable();
    this.#options.cache.close();
  }

  async #attach(request: AttachRequest): Promise<Attachment> {
    const { cache } = this.#options;
    if (request.cacheBytes !== undefined) cache.maxBytes = request.cacheBytes;
    const sources = await Promise.all(request.sources.map((address) => this.#source(address, request)));
    const known = request.dir === undefined ? undefined : knownGeneration(cache, request.dir);
    const opened = new OpenedSources(sources, request.reference, known?.encoded);
    const failures = await opened.open();
    const found = known && findCached(cache, known);
    const generation = found ?? (await this.#begin(request, opened, failures));
    try {
      return await this.#show(generation, opened);
    } catch (error) {
      if (!isDamage(error) || generation.placeDir !== generation.dir || opened.opened.size === 0) throw error;
      // A power loss has damaged its small files.
      await rm(cache.storeDir(generation.key), { recursive: true, force: true });
      return await this.#show(await this.#begin(request, opened, failures), opened);
    }
  }

  async #show(generation: CachedGeneration, opened: OpenedSources): Promise<Attachment> {
    this.#options.cache.use(generation.key);
    const packs = generation.arriving.map((arriving) => this.#pack(arriving));
    const attachment = new Attachment({ generation, opened, packs, problem: () => this.#problem });
    this.#attachments.add(attachment);
    try {
      await this.#fetchBeginning(attachment);
      await publish(generation);
    } catch (error) {
      await this.#leave(attachment);
      throw error;
    }
    for (const pack of packs) void this.#onProgress(pack);
    return attachment;
  }

  async #begin(
    { seeds }: AttachRequest,
    { opened, manifest }: OpenedSources,
    failures: readonly VmckptError[],
  ): Promise<CachedGeneration> {
    const [first] = opened.values();
    if (first === undefined || manifest === undefined) throw failures[0]!;
    return place(this.#options.cache, manifest, first, new Map(Object.entries(seeds)));
  }

  /** Of all sources together; if what comes is damaged, of one after the other. */
  async #fetchBeginning({ generation, opened, packs }: Attachment): Promise<void> {
    const all = [...opened.opened.keys()];
    let damage: VmckptError | undefined;
    for (const sources of [all, ...(all.length > 1 ? all.map((source) => [source]) : [])]) {
      for (const { sources: asked } of packs) {
        asked.clear();
        for (const source of sources) asked.add(source);
      }
      await Promise.all(packs.map((pack) => this.#present(pack)));
      try {
        await verifyBeginning(generation);
        for (const { arriving } of packs) arriving.beginVerifying();
        damage = undefined;
        break;
      } catch (error) {
        if (!isDamage(error)) throw error;
        damage = error;
        for (const { arriving } of packs) for (const span of arriving.indexSpans) arriving.forget(span);
      }
    }
    this.#introduce({ opened, packs });
    if (damage !== undefined) throw damage;
  }

  /** Resolves when the index of a pack is here. */
  async #present(pack: FetchedPack): Promise<void> {
    const isHere = () => pack.arriving.indexSpans.every((span) => pack.arriving.has(span));
    if (isHere()) return;
    const arrived = pack.whenever(isHere);
    for (const span of pack.arriving.indexSpans) this.#fetching.demand(pack, span);
    await arrived;
  }

  /** Tells its packs which sources have them. */
  #introduce({ opened, packs }: Pick<Attachment, 'opened' | 'packs'>): void {
    for (const pack of packs) for (const source of opened.opened.keys()) pack.sources.add(source);
  }

  async #source(address: string, { tlsDir, insecurePlaintext }: Access): Promise<Source> {
    const key = JSON.stringify([address, tlsDir, insecurePlaintext]);
    const known = this.#sources.get(key);
    if (known !== undefined) return known;
    const source = new Source(
      await this.#options.openStore(address, { tlsDir, insecurePlaintext }),
      () => void this.#onSource(source),
    );
    this.#sources.set(key, source);
    return source;
  }

  /** It is away, or here again: then generations that it did not open so far are opened. */
  async #onSource(source: Source): Promise<void> {
    const concerned = [...this.#attachments].filter(({ opened }) => opened.sources.includes(source));
    if (source.isHere)
      for (const attachment of concerned) {
        await attachment.opened.open();
        this.#introduce(attachment);
      }
    this.#fetching.resume();
    for (const attachment of concerned) attachment.changed();
  }

  #pack(arriving: ArrivingPack): FetchedPack {
    const pack = this.#packs.get(arriving) ?? new FetchedPack(arriving);
    this.#packs.set(arriving, pack);
    pack.users++;
    return pack;
  }

  #leavePack(pack: FetchedPack): void {
    if (--pack.users > 0) return;
    // A source that is repaired is asked again.
    for (const span of pack.lost) pack.arriving.forget(span);
    this.#fetching.dismiss(pack);
    this.#packs.delete(pack.arriving);
    if (pack.isFinished) pack.arriving.close();
  }

  async #onProgress(pack: FetchedPack): Promise<void> {
    pack.settle();
    try {
      if (pack.isSound && !pack.isFinished) {
        pack.isFinished = true;
        await this.#options.cache.finish(pack.arriving);
      }
    } catch (error) {
      return this.#onFailure(error);
    }
    for (const attachment of this.#attachments) if (attachment.packs.includes(pack)) attachment.changed();
  }

  #onDamage(pack: FetchedPack, source: Source, { offset }: Span): void {
    for (const attachment of this.#attachments)
      if (attachment.packs.includes(pack)) attachment.noteDamage(source, pack, offset);
  }

  /** Nothing can be written. What is not used makes room; otherwise it is tried again now and then. */
  async #onFailure(error: unknown): Promise<void> {
    if (this.#problem !== undefined) return;
    this.#problem = error instanceof VmckptError ? error : new VmckptError('NO_SPACE', String(error));
    for (const attachment of this.#attachments) attachment.changed();
    setTimeout(() => {
      this.#problem = undefined;
      this.#fetching.resume();
    }, RETRY_AFTER_MS).unref();
  }
}

function isDamage(error: unknown): error is VmckptError {
  return error instanceof VmckptError && error.kind === 'damaged';
}
