/**
 * The connections to an incoming QEMU, and what it says on them: a main one, and with `postcopy-preempt` another one for
 * the pages that it asks for.
 */
import { Socket } from 'node:net';
import { VmckptError } from '../../errors.js';
import { ReturnPathParser, type ReturnPathMessage } from '../../migration-stream/return-path.js';
import type { RamLayout } from '../../pages/layout.js';
import { Channel } from '../../transfer/channel.js';
import { descriptorOf } from '../../util/socket-descriptor.js';
import type { QemuMemory } from '../memory/qemu-memory.js';
import { Inbox, type MessageOf } from './inbox.js';

export interface LinkOptions {
  readonly layout: RamLayout;
  /** Opens one more connection to QEMU's incoming socket. Native code reads a connection that is not `readable`. */
  readonly connect: (readable: boolean) => Socket;
  /** The main connection of a process that died. */
  readonly adopted: number | undefined;
  /** Reads what QEMU says on the main connection, instead of this process's main thread. */
  readonly direct: QemuMemory | undefined;
}

/** What QEMU says about its pages. */
export type PagesMessage = MessageOf<'requestPages' | 'receivedBitmap'>;

export class MigrationLink {
  readonly main: Channel;
  readonly #options: LinkOptions;
  readonly #mainSocket: Socket;
  readonly #sockets: Socket[] = [];
  readonly #inbox = new Inbox();
  readonly #stop = new AbortController();
  #preempt: Channel | undefined;
  #isEnding = false;
  #isShut = false;
  #onPages: (message: PagesMessage) => void = refuseEarly;

  /** QEMU is not listened to yet. */
  constructor(options: LinkOptions) {
    const { adopted, connect, direct, layout } = options;
    this.#options = options;
    const readable = direct === undefined;
    this.#mainSocket = adopted === undefined ? connect(readable) : new Socket({ fd: adopted, readable });
    this.#watch(this.#mainSocket, (cause) => this.#onMainClosed(cause));
    this.main = new Channel(this.#mainSocket, layout);
  }

  /** Where requested pages go. */
  get demand(): Channel {
    return this.#preempt ?? this.main;
  }

  get hasPreempt(): boolean {
    return this.#preempt !== undefined;
  }

  /** Nothing but the end is written to the main connection any more. */
  get isEnding(): boolean {
    return this.#isEnding;
  }

  get sentBytes(): number {
    return this.main.sentBytes + (this.#preempt?.sentBytes ?? 0);
  }

  /** Aborts when a connection is lost, or something has failed. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Listens to QEMU's messages on the main connection, from which nothing has been read before. */
  listen(): void {
    const { layout, direct } = this.#options;
    const returnPath = new ReturnPathParser(layout, (message) => this.#onMessage(message));
    const read = (chunk: Buffer) => this.#guarded(() => returnPath.push(chunk));
    if (direct === undefined) this.#mainSocket.on('data', read);
    else direct.listen(this.mainDescriptor, read, () => this.#onMainClosed());
  }

  /** From here on requests for pages are taken. */
  serve(onPages: (message: PagesMessage) => void): void {
    this.#onPages = onPages;
  }

  openPreempt(): void {
    const socket = this.#options.connect(true);
    // QEMU closes the preempt channel as soon as it has read the end on the main one.
    this.#watch(socket, (cause) => {
      if (!this.isEnding) this.fail(lostConnection(cause));
    });
    this.#preempt = new Channel(socket, this.#options.layout);
  }

  get mainDescriptor(): number {
    return descriptorOf(this.#mainSocket);
  }

  /** The end of the migration is about to be written. */
  beginEnd(): void {
    this.#isEnding = true;
  }

  pong(value: number): Promise<MessageOf<'pong'>> {
    return this.#inbox.take('pong', (pong) => pong.value === value, this.signal);
  }

  /** The next message of that type. @throws VmckptError TIMEOUT; what the link has failed with */
  next<Type extends ReturnPathMessage['type']>(type: Type): Promise<MessageOf<Type>> {
    return this.#inbox.take(type, () => true, this.signal);
  }

  fail(error: Error): void {
    this.#stop.abort(error);
  }

  /** Rejects when a connection is lost or a page cannot be served; never resolves. Race it against other promises. */
  failure(): Promise<never> {
    return new Promise((_resolve, reject) => {
      const fail = () => reject(this.signal.reason as Error);
      if (this.signal.aborted) fail();
      this.signal.addEventListener('abort', fail, { once: true });
    });
  }

  close(): void {
    this.#options.direct?.stop();
    for (const socket of this.#sockets) socket.destroy();
  }

  #watch(socket: Socket, onLost: (cause?: Error) => void): void {
    this.#sockets.push(socket);
    socket.once('error', onLost);
    socket.once('close', () => onLost());
  }

  /** After the end, QEMU closes the main connection as well, once it has sent SHUT. */
  #onMainClosed(cause?: Error): void {
    if (!this.#isEnding || !this.#isShut) this.fail(lostConnection(cause));
  }

  #onMessage(message: ReturnPathMessage): void {
    if (message.type === 'requestPages' || message.type === 'receivedBitmap') return this.#onPages(message);
    if (message.type === 'shut') this.#isShut = true;
    this.#inbox.put(message);
  }

  #guarded(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.fail(error as Error);
    }
  }
}

function refuseEarly({ type }: PagesMessage): never {
  throw new VmckptError('TRANSFER_FAILED', `QEMU has sent ${type} before any memory was offered to it`);
}

function lostConnection(cause?: Error): VmckptError {
  return new VmckptError(
    'TRANSFER_FAILED',
    'QEMU closed the migration connection before all memory had arrived',
    { cause },
  );
}
