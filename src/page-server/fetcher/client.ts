/**
 * A generation from elsewhere that arrives in the cache, for the process that needs it: it starts the fetcher if there is none,
 * and again if it dies.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DIRECTORY_MODE, errnoOf, writeFailure } from '../../checkpoint/files.js';
import { VmckptError } from '../../errors.js';
import { parseJson } from '../../util/json-file.js';
import { readLines } from '../../util/lines.js';
import { ownEnvironment } from '../../util/own-environment.js';
import { distFile } from '../../util/package-paths.js';
import { CACHE_FILES } from '../cache-layout.js';
import { absoluteAddress, type Access } from '../open-store.js';
import type { Span } from '../cache/presence-file.js';
import {
  MAX_LINE_BYTES,
  answerSchema,
  type Answer,
  type Attached,
  type Request,
  type Status,
} from './messages.js';

const START_TIMEOUT_MS = 20_000;
const START_POLL_MS = 20;
/** Between two fetchers that die at once. */
const RESTART_PAUSE_MS = 200;
const MAX_RESTARTS_IN_A_ROW = 20;

export interface ArrivingOptions extends Access {
  readonly cacheDir: string;
  /** NAME or NAME@NUMBER, at the sources. */
  readonly reference: string;
  /** Addresses of replicas: folders, or page servers. */
  readonly sources: readonly string[];
  /** Where it is in the cache, if it was attached before: then no source has to be there. */
  readonly dir?: string | undefined;
  /** Whole packs on this host, by packKey(). */
  readonly seeds?: ReadonlyMap<string, string>;
  readonly cacheBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export class ArrivingGeneration {
  /** In the cache: a folder as of any generation, with packs that may be sparse. */
  readonly dir: string;
  readonly name: string;
  readonly number: number;
  /** Called with every status, and when a fetcher has died. */
  onStatus: (status: Status) => void = () => undefined;
  readonly #options: ArrivingOptions;
  #connection: Connection;
  readonly #plans: Request[] = [];
  #status: Status | undefined;
  #formerBytes = 0;
  #restarts = 0;
  #isClosed = false;
  #onLost: (error: unknown) => void = () => undefined;
  /** Rejects when no fetcher can be had any more. */
  readonly lost: Promise<never>;

  private constructor(options: ArrivingOptions, { dir, name, number }: Attached, connection: Connection) {
    this.#options = options;
    this.dir = dir;
    this.name = name;
    this.number = number;
    this.lost = new Promise((_resolve, reject) => (this.#onLost = reject));
    this.lost.catch(() => undefined);
    this.#connection = connection;
    this.#follow(connection);
  }

  /**
   * Resolves when the generation can be opened like any other: its beginning is here.
   * @throws VmckptError SOURCE_UNAVAILABLE, NO_CHECKPOINT, GENERATION_DIFFERS, NO_SPACE, of kind `damaged`, and others
   */
  static async attach(options: ArrivingOptions): Promise<ArrivingGeneration> {
    const { connection, attached } = await attach(options);
    return new ArrivingGeneration(options, attached, connection);
  }

  /** What was told last. */
  get status(): Status | undefined {
    return this.#status;
  }

  /** Ranges that will be wanted soon, in this order, behind earlier ones. */
  plan(ranges: readonly (Span & { readonly packId: string })[]): void {
    for (let at = 0; at < ranges.length; at += MAX_PLANNED_AT_ONCE)
      this.#ask({ type: 'plan', ranges: ranges.slice(at, at + MAX_PLANNED_AT_ONCE) });
  }

  /** All of it is wanted. */
  fill(): void {
    this.#ask({ type: 'fill' });
  }

  /** It goes on arriving only for others. */
  close(): void {
    this.#isClosed = true;
    this.#connection.close();
  }

  #ask(request: Request): void {
    this.#plans.push(request);
    this.#connection.tell(request);
  }

  #follow(connection: Connection): void {
    connection.onAnswer = (answer) => {
      if (answer.type !== 'status') return;
      this.#restarts = 0;
      const receivedBytes = this.#formerBytes + answer.receivedBytes;
      this.#status = { ...answer, receivedBytes };
      this.onStatus(this.#status);
    };
    connection.onEnd = () => void this.#again();
  }

  async #again(): Promise<void> {
    try {
      while (!this.#isClosed) {
        if (++this.#restarts > MAX_RESTARTS_IN_A_ROW)
          throw new VmckptError('FAILED', `the fetcher of ${this.#options.cacheDir} dies again and again`, {
            hint: `Its log is ${path.join(this.#options.cacheDir, CACHE_FILES.log)}.`,
          });
        await sleep(RESTART_PAUSE_MS);
        this.#formerBytes = this.#status?.receivedBytes ?? 0;
        const { connection } = await attach({ ...this.#options, dir: this.dir });
        this.#connection = connection;
        if (this.#isClosed) return connection.close();
        this.#follow(connection);
        for (const request of this.#plans) connection.tell(request);
        return;
      }
    } catch (error) {
      this.#onLost(error);
    }
  }
}

const MAX_PLANNED_AT_ONCE = 10_000;

async function attach(options: ArrivingOptions): Promise<{ connection: Connection; attached: Attached }> {
  const { cacheDir, reference, sources, dir, seeds = new Map(), cacheBytes, signal } = options;
  const tlsDir = options.tlsDir && path.resolve(options.tlsDir);
  const connection = await Connection.open(cacheDir, signal);
  const abort = () => connection.close();
  signal?.addEventListener('abort', abort);
  try {
    const answered = new Promise<Answer | undefined>((resolve) => {
      connection.onAnswer = resolve;
      connection.onEnd = () => resolve(undefined);
    });
    connection.tell({
      ...{ type: 'attach', reference, sources: sources.map(absoluteAddress), dir, cacheBytes },
      ...{ tlsDir, insecurePlaintext: options.insecurePlaintext },
      seeds: Object.fromEntries(seeds as ReadonlyMap<string, string>),
    });
    const answer = await answered;
    signal?.throwIfAborted();
    if (answer?.type === 'attached') return { connection, attached: answer };
    if (answer?.type === 'failed') throw new VmckptError(answer.code, answer.message, { hint: answer.hint });
    throw new VmckptError('FAILED', `the fetcher of ${cacheDir} has died`, {
      hint: `Try again. Its log is ${path.join(cacheDir, CACHE_FILES.log)}.`,
    });
  } catch (error) {
    connection.close();
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/** To the fetcher of a cache. */
class Connection {
  onAnswer: (answer: Answer) => void = () => undefined;
  onEnd: () => void = () => undefined;
  readonly #socket: net.Socket;

  private constructor(socket: net.Socket) {
    this.#socket = socket;
    readLines(socket, {
      maxLineBytes: MAX_LINE_BYTES,
      onLine: (line) => {
        const answer = parseJson(answerSchema, line);
        if (answer !== undefined) this.onAnswer(answer);
      },
      onEnd: () => this.onEnd(),
    });
  }

  /** @throws VmckptError NO_SPACE, STORE_NOT_WRITABLE, TIMEOUT */
  static async open(cacheDir: string, signal?: AbortSignal): Promise<Connection> {
    const endMs = performance.now() + START_TIMEOUT_MS;
    let isStarted = false;
    for (;;) {
      signal?.throwIfAborted();
      const socket = await connect(cacheDir);
      if (socket !== undefined) return new Connection(socket);
      if (!isStarted) start(cacheDir);
      isStarted = true;
      if (performance.now() > endMs)
        throw new VmckptError('TIMEOUT', `the fetcher of ${cacheDir} did not start`, {
          hint: `Its log is ${path.join(cacheDir, CACHE_FILES.log)}.`,
        });
      await sleep(START_POLL_MS);
    }
  }

  tell(request: Request): void {
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(request)}\n`);
  }

  close(): void {
    this.onEnd = () => undefined;
    this.#socket.destroy();
  }
}

/** Through a descriptor of the folder: the path of a socket has at most 107 bytes. @returns undefined if none listens */
async function connect(cacheDir: string): Promise<net.Socket | undefined> {
  let folder: number;
  try {
    folder = fs.openSync(cacheDir, fs.constants.O_DIRECTORY);
  } catch {
    return undefined;
  }
  const socket = net.connect(`/proc/self/fd/${folder}/${CACHE_FILES.socket}`);
  try {
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    socket.destroy();
    if (['ENOENT', 'ECONNREFUSED'].includes(errnoOf(error) ?? '')) return undefined;
    throw error;
  } finally {
    fs.closeSync(folder);
  }
}

/** @throws VmckptError NO_SPACE, STORE_NOT_WRITABLE */
function start(cacheDir: string): void {
  try {
    fs.mkdirSync(cacheDir, { recursive: true, mode: DIRECTORY_MODE });
    const log = fs.openSync(path.join(cacheDir, CACHE_FILES.log), 'a', 0o600);
    const child = spawn(process.execPath, [distFile('page-server/fetcher-process.js'), cacheDir], {
      ...{ detached: true, env: ownEnvironment(), stdio: ['ignore', log, log], cwd: '/' },
    });
    child.on('error', () => undefined); // the caller sees that it does not answer
    child.unref();
    fs.closeSync(log);
  } catch (error) {
    throw writeFailure(error, cacheDir);
  }
}
