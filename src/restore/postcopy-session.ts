/**
 * The post-copy conversation with an incoming QEMU, vmckpt in the role of the source of a migration. Order of
 * the messages and its reasons: docs/postcopy.md. Starts a VM from a checkpoint, or goes on where a session
 * that died has stopped.
 */
import type { Socket } from 'node:net';
import { VmckptError } from '../errors.js';
import { ReturnPathParser, type ReturnPathMessage } from '../migration-stream/return-path.js';
import * as wire from '../migration-stream/serializer.js';
import type { BulkDecoder, PageSource } from '../pages/contracts.js';
import { Channel } from '../transfer/channel.js';
import { PageFeeder } from '../transfer/page-feeder.js';
import type { MachineState } from '../transfer/whole-machine.js';
import { withDeadline } from '../util/deadline.js';

const PINGS = { connected: 1, discarded: 2, listening: 3, packaged: 4 } as const;
const ANSWER_TIMEOUT_MS = 30_000;
/** With a channel of their own, requested pages do not wait behind background pages, so more of those may queue. */
const BACKGROUND_AHEAD_BYTES = { shared: 256 * 1024, preempt: 1 << 20 } as const;

export interface SessionOptions {
  readonly source: PageSource;
  readonly decoder: BulkDecoder;
  /** Opens one more connection to QEMU's incoming socket. */
  readonly connect: () => Promise<Socket>;
  /** When the second connection of `postcopy-preempt` is made: QEMU 7.2 reads nothing before it has both. */
  readonly preempt: 'off' | 'at-once' | 'after-pong';
}

type MessageOf<Type extends ReturnPathMessage['type']> = Extract<ReturnPathMessage, { type: Type }>;

export class PostcopySession {
  readonly #options: SessionOptions;
  readonly #stop = new AbortController();
  readonly #sockets: Socket[] = [];
  #waiting: {
    matches: (message: ReturnPathMessage) => boolean;
    resolve: (message: ReturnPathMessage) => void;
  }[] = [];
  #seen: ReturnPathMessage[] = [];
  #main!: Channel;
  #demand!: Channel;
  #mainEnded = false;
  feeder!: PageFeeder;

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  get sentBytes(): number {
    return this.#main.sentBytes + (this.#demand === this.#main ? 0 : this.#demand.sentBytes);
  }

  /** Sends the machine's state; resolves when QEMU has taken it and its memory is served on demand. */
  async start({ configuration, ramSectionId, deviceState }: MachineState): Promise<void> {
    const { source } = this.#options;
    await this.#openMain();
    this.#listen();
    if (this.#options.preempt === 'at-once') await this.#openPreempt();
    this.#main.send(
      Buffer.concat([
        wire.streamHeader(configuration),
        wire.openReturnPath(),
        wire.ping(PINGS.connected),
        wire.postcopyAdvise(),
        wire.ramStart(ramSectionId, source.layout),
      ]),
    );
    if (this.#options.preempt === 'after-pong') {
      await this.#pong(PINGS.connected);
      await this.#openPreempt();
    }
    this.#startFeeding();
    const blocks = source.layout.blocks.filter(({ usedBytes }) => usedBytes > 0);
    const discards = blocks.map(({ name, usedBytes }) =>
      wire.discardRanges(name, [{ startBytes: 0, lengthBytes: usedBytes }]),
    );
    const machine = Buffer.concat([
      wire.postcopyListen(),
      deviceState,
      wire.ping(PINGS.listening),
      wire.postcopyRun(),
    ]);
    this.#main.send(Buffer.concat([...discards, wire.ping(PINGS.discarded), wire.packaged(machine)]));
    this.#main.send(Buffer.concat([wire.ping(PINGS.packaged), wire.ramPartOpen(ramSectionId)]));
    await this.#pong(PINGS.packaged);
  }

  /** Takes over a VM that waits in postcopy-recover: asks what it has received, and goes on with the rest. */
  async recover(ramSectionId: number): Promise<void> {
    const { source, preempt } = this.#options;
    await this.#openMain();
    // All in one piece and before QEMU begins to read: when we die in its midst QEMU still comes as far as RESUME, and from
    // there back to postcopy-paused. Before RESUME version 7.2 has no way back.
    this.#main.send(
      Buffer.concat([
        ...source.layout.blocks.map(({ name }) => wire.requestReceivedBitmap(name)),
        wire.postcopyResume(),
        wire.ramPartOpen(ramSectionId),
      ]),
    );
    if (preempt !== 'off') await this.#openPreempt();
    this.#startFeeding();
    this.#listen();
    // The bitmaps come before it, and the first request behind it.
    await this.#message('resumeAck', () => true);
  }

  /** Sends all remaining memory, ends the migration, and resolves when QEMU says that it has everything. */
  async finish(ramSectionId: number): Promise<void> {
    await this.feeder.sendRest(this.#stop.signal);
    this.#mainEnded = true;
    // From version 8 on QEMU reads this channel until every request is answered, also those that come behind the end;
    // an EOS would end that, and a guest that touches one more zero page would hang for ever, the migration with it.
    if (this.#options.preempt === 'at-once') {
      this.#demand.records.eos();
      this.#demand.flush();
    }
    const end = [
      wire.ramClose(ramSectionId),
      wire.ramEndOpen(ramSectionId),
      wire.ramClose(ramSectionId),
      wire.END_OF_STREAM,
    ];
    this.#main.send(Buffer.concat(end));
    const { status } = await this.#message('shut', () => true);
    if (status !== 0)
      throw new VmckptError('TRANSFER_FAILED', `QEMU ended the transfer with status ${status}, 0 expected`);
    this.close();
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Rejects when a connection is lost or a page cannot be served; never resolves. Race it against the rest. */
  failure(): Promise<never> {
    return new Promise((_resolve, reject) => {
      this.#stop.signal.addEventListener('abort', () => reject(this.#stop.signal.reason as Error), {
        once: true,
      });
      if (this.#stop.signal.aborted) reject(this.#stop.signal.reason as Error);
    });
  }

  async #openMain(): Promise<void> {
    const { source, connect } = this.#options;
    this.#main = new Channel(this.#watch(await connect()), source.layout);
    this.#demand = this.#main;
  }

  /** To what QEMU says on the main connection; nothing is read before. */
  #listen(): void {
    const returnPath = new ReturnPathParser(this.#options.source.layout, (message) =>
      this.#onMessage(message),
    );
    this.#sockets[0]!.on('data', (chunk: Buffer) => this.#guarded(() => returnPath.push(chunk)));
  }

  async #openPreempt(): Promise<void> {
    this.#demand = new Channel(this.#watch(await this.#options.connect()), this.#options.source.layout);
  }

  #startFeeding(): void {
    const { source, decoder } = this.#options;
    const backgroundAheadBytes = BACKGROUND_AHEAD_BYTES[this.#demand === this.#main ? 'shared' : 'preempt'];
    this.feeder = new PageFeeder({
      source,
      decoder,
      demand: this.#demand,
      background: this.#main,
      backgroundAheadBytes,
    });
  }

  #watch(socket: Socket): Socket {
    this.#sockets.push(socket);
    const isMain = this.#sockets.length === 1;
    // QEMU closes the preempt channel as soon as the main one has told it the end.
    const lost = (cause?: Error) => (isMain || !this.#mainEnded) && this.#fail(lostConnection(cause));
    socket.once('error', lost);
    socket.once('close', () => lost());
    return socket;
  }

  #onMessage(message: ReturnPathMessage): void {
    if (message.type === 'requestPages') {
      // Behind the end only zero pages are left, and QEMU makes those itself; on a channel of its own it waits for answers.
      if (!this.#mainEnded || this.#demand !== this.#main)
        this.feeder.answer(message.page, message.pageCount);
      return;
    }
    if (message.type === 'receivedBitmap') return this.#markReceived(message);
    const index = this.#waiting.findIndex(({ matches }) => matches(message));
    if (index < 0) this.#seen.push(message);
    else this.#waiting.splice(index, 1)[0]!.resolve(message);
  }

  #markReceived({ blockName, bitmap }: MessageOf<'receivedBitmap'>): void {
    const { firstPage, pageCount } = this.#options.source.layout.byName(blockName)!;
    for (let page = 0; page < pageCount; page++)
      if (((bitmap[page >>> 3]! >>> (page & 7)) & 1) === 1) this.feeder.markReceived(firstPage + page);
  }

  #pong(value: number): Promise<MessageOf<'pong'>> {
    return this.#message('pong', (pong) => pong.value === value);
  }

  async #message<Type extends ReturnPathMessage['type']>(
    type: Type,
    accepts: (message: MessageOf<Type>) => boolean,
  ): Promise<MessageOf<Type>> {
    const matches = (message: ReturnPathMessage): message is MessageOf<Type> =>
      message.type === type && accepts(message as MessageOf<Type>);
    const early = this.#seen.find(matches);
    if (early !== undefined) {
      this.#seen = this.#seen.filter((message) => message !== early);
      return early;
    }
    const arrived = new Promise<ReturnPathMessage>((resolve) => this.#waiting.push({ matches, resolve }));
    const message = await withDeadline(arrived, {
      what: `QEMU's ${type} on the return path`,
      timeoutMs: ANSWER_TIMEOUT_MS,
      signal: this.#stop.signal,
    });
    return message as MessageOf<Type>;
  }

  #guarded(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #fail(error: Error): void {
    this.#stop.abort(error);
  }
}

function lostConnection(cause?: Error): VmckptError {
  return new VmckptError(
    'TRANSFER_FAILED',
    'QEMU closed the migration connection before all memory had arrived',
    { cause },
  );
}
