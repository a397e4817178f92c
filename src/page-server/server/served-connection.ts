/**
 * One client of a page server. Reads are answered by their lane (read-queue.ts), pings at once, and everything else in the
 * order in which it was asked for. What a client may have under way is bounded: beyond that its bytes are not read.
 */
import type { Duplex } from 'node:stream';
import { VmckptError } from '../../errors.js';
import type { Access } from '../access.js';
import type { RemoteStore } from '../contracts.js';
import { toWire } from '../wire/errors.js';
import { FrameReader, malformed } from '../wire/frame.js';
import { MAX_HANDLES, MAX_PIECE_BYTES, MAX_REQUESTS } from '../wire/limits.js';
import {
  REPLY_TYPES,
  VERSIONS,
  decodeRequest,
  encodeResult,
  errorCodec,
  featureOf,
  goingAwayCodec,
  maxRequestBytes,
  type Feature,
  type Request,
  type RequestBody,
} from '../wire/messages.js';
import type { ServerCounters } from './counters.js';
import { Handles } from './handles.js';
import { Outbox, refuse } from './outbox.js';
import { ReadQueue } from './read-queue.js';
import { answer } from './requests.js';

/** Of those that may have content, up to 4 MiB each, so few wait. */
const MAX_ORDERED = 8;

export interface Patience {
  /** Until hello. */
  readonly helloMs: number;
  /** Without a byte from the client. */
  readonly idleMs: number;
  /** While the client takes nothing of what waits for it. */
  readonly stallMs: number;
}

export interface ServedOptions {
  /** What this client may see; closed with the connection. */
  readonly store: RemoteStore;
  readonly access: Access;
  readonly features: readonly Feature[];
  readonly patience: Patience;
  readonly counters: ServerCounters;
  /** Names this program and its version. */
  readonly agent: string;
}

type Read = Request & { readonly kind: 'read' | 'readFile' };

export class ServedConnection {
  readonly #stream: Duplex;
  readonly #options: ServedOptions;
  readonly #reader = new FrameReader(maxRequestBytes);
  readonly #outbox: Outbox;
  readonly #reads = new ReadQueue();
  readonly #handles = new Handles();
  readonly #timer: NodeJS.Timeout;
  /** Undefined until hello. */
  #features: readonly string[] | undefined;
  #ordered: Promise<void> = Promise.resolve();
  #orderedCount = 0;
  #heardMs = performance.now();
  #isGoingAway = false;
  /** Resolves when nothing of the connection is left. */
  readonly closed: Promise<void>;

  constructor(stream: Duplex, options: ServedOptions) {
    this.#stream = stream;
    this.#options = options;
    this.#outbox = new Outbox(stream);
    const { helloMs, idleMs, stallMs } = options.patience;
    this.#timer = setInterval(() => this.#look(), Math.min(helloMs, idleMs, stallMs) / 4);
    stream.on('data', (chunk: Buffer) => this.#take(chunk));
    stream.on('end', () => stream.destroy());
    stream.on('error', () => stream.destroy());
    this.closed = new Promise((resolve) => {
      stream.on('close', () => void this.#release().finally(resolve));
    });
  }

  /** Takes no further requests. Those under way are answered, then the client closes the connection. */
  goAway(): void {
    if (this.#isGoingAway) return;
    this.#isGoingAway = true;
    if (this.#features === undefined) this.#stream.destroy();
    else this.#outbox.send({ type: REPLY_TYPES.goingAway, id: 0, more: false }, goingAwayCodec.encode({}));
  }

  /** Whether all that the client has open is still permitted. */
  get isPermitted(): boolean {
    return this.#handles.arePermitted(this.#options.access);
  }

  /** Ends it at once. */
  drop(): void {
    if (!this.#stream.destroyed) this.#options.counters.droppedConnections++;
    this.#stream.destroy();
  }

  #take(chunk: Buffer): void {
    this.#heardMs = performance.now();
    this.#options.counters.receivedBytes += chunk.length;
    try {
      for (const frame of this.#reader.push(chunk)) this.#accept(decodeRequest(frame));
    } catch (error) {
      return this.#failConnection(error);
    }
    this.#bound();
  }

  #accept(request: Request): void {
    const { kind, id, body } = request;
    if (kind === 'hello') return this.#greet(id, body);
    if (this.#features === undefined) throw malformed('a request before hello');
    if (kind === 'cancel') this.#reads.cancel(body.target);
    if (kind === 'cancel' || kind === 'ping') return this.#result(id, kind, {});
    const refusal = this.#refusalOf(request);
    if (refusal !== undefined) this.#error(id, refusal);
    else if (kind === 'read' || kind === 'readFile') this.#queueRead(request);
    else this.#queueOrdered(request);
  }

  #greet(id: number, { versions, features }: RequestBody<'hello'>): void {
    if (this.#features !== undefined) throw malformed('a second hello');
    const version = Math.min(versions.max, VERSIONS.max);
    if (version < Math.max(versions.min, VERSIONS.min))
      throw new VmckptError(
        'FORMAT_UNSUPPORTED',
        `versions ${versions.min} to ${versions.max} of the protocol offered, ${VERSIONS.min} to ${VERSIONS.max} expected`,
        { hint: 'Use the same version of vmckpt on both hosts.' },
      );
    const { agent, patience } = this.#options;
    const common = this.#options.features.filter((feature) => features.includes(feature));
    this.#features = common;
    this.#result(id, 'hello', {
      ...{ version, agent, features: common, idleMs: patience.idleMs },
      ...{ maxRequests: MAX_REQUESTS, maxHandles: MAX_HANDLES },
    });
  }

  #refusalOf({ kind }: Request): VmckptError | undefined {
    if (this.#isGoingAway) return new VmckptError('SOURCE_UNAVAILABLE', 'the server is going away');
    const feature = featureOf(kind);
    if (feature === undefined || this.#features!.includes(feature)) return undefined;
    return new VmckptError('NOT_PERMITTED', `this page server does not take "${kind}"`);
  }

  #queueRead(request: Read): void {
    const { id, kind, body } = request;
    const startMs = performance.now();
    this.#reads.add({
      ...{ id, lane: body.lane, length: body.length },
      endMs: kind === 'read' && body.deadlineMs > 0 ? startMs + body.deadlineMs : Infinity,
      read: (from, length) => this.#readPiece(request, { offset: body.offset + from, length }),
      deliver: async (piece, isLast) => {
        await this.#outbox.room();
        this.#outbox.send({ type: REPLY_TYPES.bytes, id, more: !isLast }, piece);
        if (!isLast) return;
        const serviceMs = performance.now() - startMs;
        this.#options.counters.countRead(body.lane, { bytes: body.length, serviceMs });
        this.#bound();
      },
      fail: (error) => {
        this.#error(id, error);
        this.#bound();
      },
    });
  }

  async #readPiece({ kind, body }: Read, range: { readonly offset: number; readonly length: number }) {
    const { lane } = body;
    if (kind === 'read') return this.#options.store.read({ packId: body.packId, ...range }, { lane });
    const bytes = await this.#handles.opened(body.handle).readFile(body.file, range, { lane });
    if (bytes !== undefined) return bytes;
    throw new VmckptError('FILE_MISSING', `there is no file "${body.file}"`);
  }

  #queueOrdered(request: Request): void {
    this.#orderedCount++;
    this.#ordered = this.#ordered.then(async () => {
      try {
        if (!this.#stream.destroyed) await this.#answer(request);
      } catch (error) {
        this.#error(request.id, error);
      }
      this.#orderedCount--;
      this.#bound();
    });
  }

  async #answer(request: Request): Promise<void> {
    const { store, counters, access } = this.#options;
    const { id, kind } = request;
    const { result, bytes } = await answer(request, { store, counters, access, handles: this.#handles });
    if (result !== undefined) this.#result(id, kind, result, bytes !== undefined);
    if (bytes === undefined) return;
    for (const whole of bytes)
      for (let from = 0; from < whole.length; from += MAX_PIECE_BYTES) {
        await this.#outbox.room();
        const piece = whole.subarray(from, from + MAX_PIECE_BYTES);
        this.#outbox.send({ type: REPLY_TYPES.bytes, id, more: true }, piece);
      }
    this.#outbox.send({ type: REPLY_TYPES.bytes, id, more: false }, new Uint8Array(0));
  }

  #result(id: number, kind: Request['kind'], result: unknown, more = false): void {
    this.#outbox.send({ type: REPLY_TYPES.result, id, more }, encodeResult(kind, result));
  }

  #error(id: number, error: unknown): void {
    this.#options.counters.countError(error instanceof VmckptError ? error.code : 'FAILED');
    this.#outbox.send({ type: REPLY_TYPES.error, id, more: false }, errorCodec.encode(toWire(error)));
  }

  /** What came is not the protocol: says so, and ends the connection. */
  #failConnection(error: unknown): void {
    const { counters } = this.#options;
    counters.droppedConnections++;
    counters.countError(error instanceof VmckptError ? error.code : 'FAILED');
    refuse(this.#stream, error);
  }

  /** Reads no more of a client that has enough under way. */
  #bound(): void {
    const hasRoom = this.#orderedCount < MAX_ORDERED && this.#reads.size < MAX_REQUESTS;
    if (hasRoom) this.#stream.resume();
    else this.#stream.pause();
  }

  #look(): void {
    const nowMs = performance.now();
    const { helloMs, idleMs, stallMs } = this.#options.patience;
    const maxSilenceMs = this.#features === undefined ? helloMs : idleMs;
    const isSilent = !this.#stream.isPaused() && nowMs - this.#heardMs > maxSilenceMs;
    if (isSilent || this.#outbox.stalledMs(nowMs) > stallMs) this.drop();
  }

  async #release(): Promise<void> {
    clearInterval(this.#timer);
    await this.#ordered;
    await this.#options.store.close();
  }
}
