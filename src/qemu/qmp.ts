/**
 * QMP client: QEMU's monitor protocol over a unix socket, JSON documents. A monitor serves one client at a time;
 * others wait silently in the listen queue. Every command has a deadline. When the connection ends, every pending
 * command and wait is rejected with the reason. Source: QEMU's "QMP Machine Protocol Specification"
 * (docs/interop/qmp-spec).
 */
import { EventEmitter, once } from 'node:events';
import net from 'node:net';
import { resolve } from 'node:path';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { peerCredentials, sendFds } from '../native/index.js';
import { debug, elided, elidedAnswer } from '../util/debug.js';
import { withDeadline } from '../util/deadline.js';
import { asOwner } from '../util/rights.js';
import { misfit, parse, record } from '../util/schema.js';
import { descriptorOf } from '../util/socket-descriptor.js';
import { DocumentSplitter } from './qmp-documents.js';
import { busy, closedBy, notQmp, refused, unanswered } from './qmp-errors.js';

const DEFAULT_TIMEOUT_MS = 10_000;
/** How many past events are remembered. */
const EVENT_RING_LENGTH = 256;

const Greeting = v.object({
  QMP: v.object({
    version: v.object({
      qemu: v.object({ major: v.number(), minor: v.number(), micro: v.number() }),
      package: v.optional(v.string()),
    }),
    capabilities: v.array(v.unknown()),
  }),
});
const Reply = v.object({
  id: v.number(),
  return: v.optional(v.unknown()),
  error: v.optional(v.object({ class: v.string(), desc: v.string() })),
});
const Event = v.object({
  event: v.string(),
  data: v.optional(record(v.unknown()), {}),
  timestamp: v.object({ seconds: v.number(), microseconds: v.number() }),
});

export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** For messages: `7.2.22 (Debian …)`. */
  readonly text: string;
}

export interface QmpEvent {
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's own clock when the event happened: milliseconds since 1970, to the microsecond. */
  readonly timestampMs: number;
}

export interface ConnectOptions {
  readonly path: string;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** Requests out-of-band commands; `oob` of the client tells whether they were granted. */
  readonly oob?: boolean;
}

export interface ExecuteOptions {
  readonly timeoutMs?: number;
  /** Runs ahead of the queue and without QEMU's main lock; requires a connection with `oob`. */
  readonly oob?: boolean;
  /** A descriptor that travels with the command, for `getfd`. Nothing else may be under way on the connection. */
  readonly fd?: number;
}

export interface WaitForEventOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  readonly predicate?: (event: QmpEvent) => boolean;
}

interface Pending {
  readonly command: string;
  readonly args: object;
  readonly resolve: (value: unknown) => void;
  readonly reject: (reason: Error) => void;
}

export class QmpClient {
  readonly path: string;
  /** Resolves with the reason once the connection has ended; never rejects. */
  readonly closed: Promise<VmckptError>;
  readonly #socket: net.Socket;
  readonly #documents = new DocumentSplitter();
  readonly #greeted: Promise<void>;
  readonly #pending = new Map<number, Pending>();
  readonly #emitter = new EventEmitter().setMaxListeners(0);
  readonly #events: QmpEvent[] = [];
  #version: QemuVersion | undefined;
  #oobOffered = false;
  #oob = false;
  #adopted = false;
  #nextId = 1;
  #closeReason: VmckptError | undefined;
  #reportGreeted!: () => void;
  #reportClosed!: (reason: VmckptError) => void;

  private constructor(socket: net.Socket, path: string) {
    this.path = path;
    this.#socket = socket;
    this.closed = new Promise((resolve) => (this.#reportClosed = resolve));
    this.#greeted = new Promise((resolve) => (this.#reportGreeted = resolve));
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.on('error', (cause) => this.#end(closedBy('the connection to QEMU broke', path, cause)));
    socket.on('close', () => this.#end(closedBy('QEMU closed its QMP connection', path)));
  }

  /**
   * Connects, reads the greeting and leaves negotiation mode.
   * @throws VmckptError QMP_UNREACHABLE (no listener) · QMP_NOT_QMP (something else answers) · QMP_BUSY (no greeting
   *   within `timeoutMs`: another client has the monitor) · VM_STATE (QEMU's process is stopped) · QMP_CLOSED ·
   *   NOT_PERMITTED
   */
  static async connect(options: ConnectOptions): Promise<QmpClient> {
    const { path, timeoutMs = DEFAULT_TIMEOUT_MS, signal, oob = false } = options;
    const client = new QmpClient(await openSocket(path, signal), path);
    try {
      await client.#handshake({ timeoutMs, signal, oob });
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /**
   * Continues on a connection that another process has negotiated, with out-of-band commands, and left (see
   * held-monitor.ts). Such a client does not know QEMU's version.
   */
  static adopt(fd: number, path: string): QmpClient {
    const client = new QmpClient(new net.Socket({ fd }), path);
    client.#adopted = true;
    client.#oob = true;
    // Answers to the other process's commands may still come.
    client.#nextId = Math.floor(Math.random() * 2 ** 48);
    return client;
  }

  /**
   * The process that listens at `path`, even when it does not answer. @throws VmckptError QMP_UNREACHABLE · QMP_BUSY
   */
  static async listenerAt(path: string): Promise<number> {
    const client = new QmpClient(await openSocket(path, undefined), path);
    try {
      return client.peerPid();
    } finally {
      await client.close();
    }
  }

  get version(): QemuVersion {
    if (this.#version === undefined) throw new Error('the version is known only after the greeting');
    return this.#version;
  }

  /** Whether out-of-band commands were granted. */
  get oob(): boolean {
    return this.#oob;
  }

  /**
   * Runs one command. @returns QEMU's answer, not yet validated: see `query`.
   * @throws VmckptError QMP_COMMAND_FAILED · QMP_CLOSED · TIMEOUT (a late answer is dropped) · VM_STATE (QEMU's
   *   process is stopped)
   */
  async execute(command: string, args: object = {}, options: ExecuteOptions = {}): Promise<unknown> {
    const { timeoutMs = DEFAULT_TIMEOUT_MS, oob = false, fd } = options;
    if (this.#closeReason !== undefined) throw this.#closeReason;
    if (oob && !this.#oob)
      throw new VmckptError('FAILED', `${command} must run out of band, which ${this.path} did not grant`);
    const id = this.#nextId++;
    const reply = new Promise<unknown>((resolve, reject) =>
      this.#pending.set(id, { command, args, resolve, reject }),
    );
    const line = `${JSON.stringify({ [oob ? 'exec-oob' : 'execute']: command, arguments: args, id })}\n`;
    reply.catch(() => undefined); // awaited below, unless the command cannot even be sent
    debug('qmp', () => `${id} → ${command} ${elided(args)}${oob ? ' out of band' : ''}`);
    try {
      if (fd === undefined) this.#socket.write(line);
      else sendFds(this.descriptor(), Buffer.from(line), [fd]);
      return await withDeadline(reply, { what: `QEMU to answer ${command}`, timeoutMs });
    } catch (error) {
      throw unanswered(() => this.peerPid(), error);
    } finally {
      this.#pending.delete(id);
    }
  }

  /**
   * `execute` whose answer must match `schema`. @throws VmckptError as `execute`, and QMP_NOT_QMP for another answer
   */
  async query<T>(
    schema: v.GenericSchema<unknown, T>,
    command: string,
    args?: object,
    options?: ExecuteOptions,
  ): Promise<T> {
    const parsed = v.safeParse(schema, await this.execute(command, args, options));
    if (parsed.success) return parsed.output;
    const message = `${this.path} answered ${command} in an unexpected shape: ${misfit(parsed.issues)}`;
    throw new VmckptError('QMP_NOT_QMP', message);
  }

  /** Calls `listener` for each event of that name (`*`: every name). @returns a function that removes it */
  on(name: string, listener: (event: QmpEvent) => void): () => void {
    this.#emitter.on(name, listener);
    return () => void this.#emitter.off(name, listener);
  }

  /**
   * The next event with one of `names`. Past events do not count: start to wait before the command that causes it.
   * @throws VmckptError TIMEOUT · QMP_CLOSED, or the signal's reason
   */
  async waitForEvent(names: readonly string[], options: WaitForEventOptions): Promise<QmpEvent> {
    const { timeoutMs, signal, predicate = () => true } = options;
    signal?.throwIfAborted();
    let stop = (): void => undefined;
    const arrival = new Promise<QmpEvent>((resolve, reject) => {
      stop = this.on('*', (event) => {
        if (names.includes(event.name) && predicate(event)) resolve(event);
      });
      void this.closed.then(reject);
    });
    try {
      return await withDeadline(arrival, { what: `QEMU's event ${names.join(' or ')}`, timeoutMs, signal });
    } finally {
      stop();
    }
  }

  /** The latest events, oldest first. */
  get pastEvents(): readonly QmpEvent[] {
    return this.#events;
  }

  /** Calls `listener` once, when the connection ends (at once if it has ended). */
  onClose(listener: (reason: VmckptError) => void): void {
    void this.closed.then(listener);
  }

  /** The process that listens at the other end. @throws an Error of the operating system */
  peerPid(): number {
    return peerCredentials(this.descriptor()).pid;
  }

  /** The connection's own descriptor; it belongs to this client. */
  descriptor(): number {
    return descriptorOf(this.#socket);
  }

  async close(): Promise<void> {
    if (this.#closeReason === undefined)
      this.#end(closedBy('this side closed the QMP connection', this.path));
    await this.closed;
  }

  async #handshake({
    timeoutMs,
    signal,
    oob,
  }: Required<Omit<ConnectOptions, 'path' | 'signal'>> & Cancel): Promise<void> {
    // A server that waits for its client to speak first reveals itself by its answer to this. QMP answers with an error
    // without an id, which is ignored.
    const probe = setTimeout(() => this.#socket.write('{}\n'), timeoutMs / 2);
    try {
      const ended = this.closed.then((reason) => Promise.reject(reason));
      await withDeadline(Promise.race([this.#greeted, ended]), {
        what: 'the QMP greeting',
        timeoutMs,
        signal,
      });
      const grantOob = oob && this.#oobOffered;
      await this.execute('qmp_capabilities', grantOob ? { enable: ['oob'] } : {}, { timeoutMs });
      this.#oob = grantOob;
    } catch (error) {
      const silent = error instanceof VmckptError && error.code === 'TIMEOUT' && this.#version === undefined;
      throw silent ? busy(this.path, this.peerPid(), error) : error;
    } finally {
      clearTimeout(probe);
    }
  }

  #receive(chunk: Buffer): void {
    try {
      for (const document of this.#documents.push(chunk)) this.#dispatch(JSON.parse(document) as unknown);
    } catch (cause) {
      // The former process may have read the first half of a line.
      if (this.#adopted) return;
      this.#end(notQmp(this.path, `sent what is not QMP: ${(cause as Error).message}`, cause));
    }
  }

  #greet({ version, capabilities }: v.InferOutput<typeof Greeting>['QMP']): void {
    const { major, minor, micro } = version.qemu;
    const suffix = version.package ? ` (${version.package})` : '';
    this.#version = { major, minor, micro, text: `${major}.${minor}.${micro}${suffix}` };
    this.#oobOffered = capabilities.includes('oob');
    this.#reportGreeted();
  }

  #dispatch(message: unknown): void {
    // QEMU may send an event before its greeting, because the monitor is still in the state of its former client.
    const event = v.safeParse(Event, message);
    if (event.success) {
      const { event: name, data, timestamp } = event.output;
      this.#publish({ name, data, timestampMs: timestamp.seconds * 1000 + timestamp.microseconds / 1000 });
      return;
    }
    if (this.#version === undefined && !this.#adopted) return this.#greet(parse(Greeting, message).QMP);
    const reply = v.safeParse(Reply, message);
    if (!reply.success) return;
    const { id, error } = reply.output;
    const pending = this.#pending.get(id);
    debug('qmp', () => `${id} ← ${error ? elided(error) : elidedAnswer(reply.output.return, pending?.args)}`);
    if (error === undefined) pending?.resolve(reply.output.return);
    else pending?.reject(refused(pending.command, error));
  }

  #publish(event: QmpEvent): void {
    debug('qmp', () => `event ${event.name} ${elided(event.data)}`);
    if (this.#events.push(event) > EVENT_RING_LENGTH) this.#events.shift();
    this.#emitter.emit(event.name, event);
    this.#emitter.emit('*', event);
  }

  #end(reason: VmckptError): void {
    if (this.#closeReason !== undefined) return;
    this.#closeReason = reason;
    debug('qmp', () => reason.message);
    this.#socket.destroy();
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#reportClosed(reason);
  }
}

interface Cancel {
  readonly signal: AbortSignal | undefined;
}

async function openSocket(path: string, signal: AbortSignal | undefined): Promise<net.Socket> {
  const socket = net.connect({ path });
  try {
    await once(socket, 'connect', signal === undefined ? {} : { signal });
    return socket;
  } catch (cause) {
    socket.destroy();
    signal?.throwIfAborted();
    const { code = 'connect failed' } = cause as NodeJS.ErrnoException;
    const place = resolve(path);
    // A full listen queue: the monitor has a client, and others already wait for it.
    if (code === 'EAGAIN') throw busy(path, undefined, cause);
    if (code === 'EACCES') {
      const hint = asOwner('the user who started QEMU');
      throw new VmckptError('NOT_PERMITTED', `no permission to connect to ${place}`, { hint, cause });
    }
    const hint = `Start QEMU with -qmp unix:${place},server=on,wait=off, or name the socket that it has.`;
    throw new VmckptError('QMP_UNREACHABLE', `no QMP server at ${place} (${code})`, { hint, cause });
  }
}
