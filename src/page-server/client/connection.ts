/** One connection to a page server: requests and their replies, matched by number; a server that is silent is noticed. */
import type { Duplex } from 'node:stream';
import { VmckptError } from '../../errors.js';
import { withDeadline } from '../../util/deadline.js';
import { LANES, type Lane } from '../contracts.js';
import { tlsFailure } from '../tls.js';
import { fromWire } from '../wire/errors.js';
import { FrameReader, encodeFrame, malformed, type Frame } from '../wire/frame.js';
import {
  FEATURES,
  REPLY_TYPES,
  VERSIONS,
  decodeResult,
  encodeRequest,
  errorCodec,
  maxReplyBytes,
  replyShape,
  type RequestBody,
  type RequestKind,
  type ResultOf,
} from '../wire/messages.js';

const MAX_ID = 0xffff_ffff;

export interface ClientPatience {
  /** Until the server has answered hello. */
  readonly helloMs: number;
  /** Without a byte from the server, although it was asked for a sign of life. */
  readonly silenceMs: number;
}

export interface ConnectionOptions {
  /** The server's address. */
  readonly label: string;
  /** Names this program and its version. */
  readonly agent: string;
  readonly patience: ClientPatience;
}

export interface RequestOptions {
  /** Which request goes first where the server takes no more at a time. */
  readonly lane?: Lane;
  readonly signal?: AbortSignal | undefined;
  /** Takes the bytes of the reply as they come. @throws VmckptError SOURCE_MALFORMED for more than were asked for */
  readonly onBytes?: (piece: Uint8Array) => void;
}

interface Exchange {
  readonly kind: RequestKind;
  readonly body: RequestBody<never>;
  readonly options: RequestOptions;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
  /** The last part of the reply that has come. */
  part?: 'result' | 'bytes';
  result?: unknown;
  /** No longer wanted. */
  isAbandoned: boolean;
}

export class Connection {
  readonly #stream: Duplex;
  readonly #label: string;
  readonly #patience: ClientPatience;
  readonly #reader = new FrameReader(maxReplyBytes);
  readonly #underWay = new Map<number, Exchange>();
  readonly #waiting = new Map<Lane, Exchange[]>(LANES.map((lane) => [lane, []]));
  #maxRequests = 1;
  #lastId = 0;
  #heardMs = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #isGoingAway = false;
  #failure: VmckptError | undefined;

  private constructor(stream: Duplex, { label, patience }: ConnectionOptions) {
    this.#stream = stream;
    this.#label = label;
    this.#patience = patience;
    stream.on('data', (chunk: Buffer) => this.#take(chunk));
    stream.on('error', (error) =>
      this.#fail(
        tlsFailure(label, error) ?? this.#unavailable(`the connection has failed: ${error.message}`),
      ),
    );
    stream.on('close', () => this.#fail(this.#unavailable('the connection was closed')));
    stream.on('end', () => this.#fail(this.#unavailable('the server has closed the connection')));
  }

  /**
   * Says hello on a stream that is connected; the stream is the connection's from now on.
   * @throws VmckptError SOURCE_UNAVAILABLE, SOURCE_MALFORMED, FORMAT_UNSUPPORTED, NOT_PERMITTED
   */
  static async open(stream: Duplex, options: ConnectionOptions): Promise<Connection> {
    const connection = new Connection(stream, options);
    const { agent, label, patience } = options;
    try {
      const hello = connection.request('hello', { versions: VERSIONS, features: [...FEATURES], agent });
      const timeoutMs = patience.helloMs;
      const { maxRequests, idleMs } = await withDeadline(hello, { what: `an answer of ${label}`, timeoutMs });
      connection.#maxRequests = Math.max(1, maxRequests);
      connection.#watch(idleMs);
      return connection;
    } catch (error) {
      connection.close();
      if (!(error instanceof VmckptError) || error.code !== 'TIMEOUT') throw error;
      throw connection.#unavailable('the server does not answer', error);
    }
  }

  /** Whether it takes requests. */
  get isOpen(): boolean {
    return this.#failure === undefined && !this.#isGoingAway;
  }

  /**
   * @returns the result, when the whole reply is there; undefined for one of bytes alone
   * @throws VmckptError what the server answers; SOURCE_UNAVAILABLE; SOURCE_MALFORMED; the signal's reason
   */
  request<K extends RequestKind>(
    kind: K,
    body: RequestBody<K>,
    options: RequestOptions = {},
  ): Promise<ResultOf<K>> {
    const { signal, lane = 'demand' } = options;
    return new Promise<ResultOf<K>>((resolve, reject) => {
      if (signal?.aborted === true) return reject(signal.reason as Error);
      if (this.#failure !== undefined) return reject(this.#failure);
      const exchange: Exchange = {
        ...{ kind, body: body as RequestBody<never>, options, isAbandoned: false },
        resolve: (result) => {
          signal?.removeEventListener('abort', abandon);
          resolve(result as ResultOf<K>);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abandon);
          reject(error);
        },
      };
      const abandon = () => this.#abandon(exchange, signal!.reason as Error);
      signal?.addEventListener('abort', abandon);
      this.#waiting.get(lane)!.push(exchange);
      this.#sendWaiting();
    });
  }

  /** Fails what is under way. */
  close(): void {
    this.#fail(this.#unavailable('the connection was closed'));
  }

  #sendWaiting(): void {
    for (const lane of LANES)
      for (const queue = this.#waiting.get(lane)!; queue.length > 0 && this.#failure === undefined;) {
        if (this.#underWay.size >= this.#maxRequests) return;
        const exchange = queue.shift()!;
        if (!exchange.isAbandoned) this.#send(exchange);
      }
  }

  #send(exchange: Exchange): void {
    const id = ++this.#lastId;
    if (id === MAX_ID) this.#isGoingAway = true;
    this.#underWay.set(id, exchange);
    const { type, payload } = encodeRequest(exchange.kind, exchange.body);
    this.#stream.write(encodeFrame({ type, id, more: false }, payload));
  }

  #abandon(exchange: Exchange, reason: Error): void {
    exchange.isAbandoned = true;
    exchange.reject(reason);
    const [target] = [...this.#underWay].find(([, underWay]) => underWay === exchange) ?? [];
    if (target !== undefined) this.request('cancel', { target }).catch(() => undefined);
  }

  #take(chunk: Buffer): void {
    this.#heardMs = performance.now();
    try {
      for (const frame of this.#reader.push(chunk)) this.#accept(frame);
    } catch (error) {
      this.#fail(error instanceof VmckptError ? error : malformed(String(error)));
    }
    this.#sendWaiting();
  }

  #accept(frame: Frame): void {
    const { type, id, payload } = frame;
    if (type === REPLY_TYPES.goingAway) return this.#endSoon();
    if (type === REPLY_TYPES.error && id === 0) throw fromWire(errorCodec.decode(payload), this.#label);
    const exchange = this.#underWay.get(id);
    if (exchange === undefined) throw malformed(`a reply to request ${id}, which was not made`);
    if (type === REPLY_TYPES.error) {
      const error = fromWire(errorCodec.decode(payload), this.#label);
      this.#settle(id);
      return exchange.reject(error);
    }
    takePart(exchange, frame);
    if (frame.more) return;
    if (exchange.part !== lastPartOf(exchange)) throw malformed(`half a reply to ${exchange.kind}`);
    this.#settle(id);
    exchange.resolve(exchange.result);
  }

  #settle(id: number): void {
    this.#underWay.delete(id);
    if (this.#isGoingAway && this.#underWay.size === 0) this.close();
  }

  /** Requests that wait have not reached the server: another connection may take them. */
  #endSoon(): void {
    this.#isGoingAway = true;
    for (const queue of this.#waiting.values())
      for (const exchange of queue.splice(0)) exchange.reject(this.#unavailable('the server is going away'));
    if (this.#underWay.size === 0) this.close();
  }

  /** What came behind the answer to hello may have failed the connection already. */
  #watch(idleMs: number): void {
    if (this.#failure !== undefined) return;
    const { silenceMs } = this.#patience;
    const everyMs = Math.max(1, Math.min(idleMs, silenceMs) / 4);
    this.#timer = setInterval(() => {
      if (performance.now() - this.#heardMs > silenceMs)
        this.#fail(this.#unavailable('the server is silent'));
      else if (this.isOpen) this.request('ping', {}).catch(() => undefined);
    }, everyMs);
    this.#timer.unref();
  }

  #fail(failure: VmckptError): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    clearInterval(this.#timer);
    this.#stream.destroy();
    const failed = [...this.#underWay.values(), ...[...this.#waiting.values()].flat()];
    this.#underWay.clear();
    for (const queue of this.#waiting.values()) queue.length = 0;
    for (const exchange of failed) exchange.reject(failure);
  }

  #unavailable(why: string, cause?: unknown): VmckptError {
    return new VmckptError('SOURCE_UNAVAILABLE', `${this.#label}: ${why}`, { cause });
  }
}

/** @throws VmckptError SOURCE_MALFORMED for what the request is not answered with */
function takePart(exchange: Exchange, { type, payload }: Frame): void {
  const { kind, options, part } = exchange;
  const shape = replyShape(kind);
  if (type === REPLY_TYPES.result && shape.hasResult && part === undefined) {
    exchange.result = decodeResult(kind, payload);
    exchange.part = 'result';
  } else if (type === REPLY_TYPES.bytes && shape.hasBytes && (part !== undefined || !shape.hasResult)) {
    exchange.part = 'bytes';
    if (!exchange.isAbandoned) options.onBytes?.(payload);
  } else throw malformed(`a frame of type ${type} in a reply to ${kind}`);
}

function lastPartOf({ kind }: Exchange): 'result' | 'bytes' {
  return replyShape(kind).hasBytes ? 'bytes' : 'result';
}
