/**
 * The post-copy conversation with an incoming QEMU, in which vmckpt is the source of a migration. docs/postcopy.md
 * gives the order of the messages and the reasons. A session starts a VM from a checkpoint, or continues where
 * another session has died.
 */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../../errors.js';
import { ReturnPathParser, type ReturnPathMessage } from '../../migration-stream/return-path.js';
import * as wire from '../../migration-stream/serializer.js';
import type { ExtentSource, PageCatalog } from '../../pages/contracts.js';
import type { HostPages } from '../../pages/host-pages.js';
import { rangeOf, type PageRange } from '../../pages/layout.js';
import { nowMs } from '../../timeline/clock.js';
import { Channel } from '../../transfer/channel.js';
import { PageFeeder } from '../../transfer/page-feeder.js';
import type { MachineState } from '../../transfer/whole-machine.js';
import { withDeadline } from '../../util/deadline.js';
import { rangesOf } from '../../working-set/runs.js';
import { descriptorOf } from '../../util/socket-descriptor.js';
import type { QemuMemory } from '../memory/qemu-memory.js';
import { log } from '../log.js';
import type { ObservedFaults, Prediction } from '../../working-set/prediction.js';

const PINGS = { connected: 1, discarded: 2, listening: 3, packaged: 4 } as const;
const ANSWER_TIMEOUT_MS = 30_000;
/**
 * FaultServer::kPatienceMisses in native/core/fault_server.h is the same: a guest with more misses needs everything.
 */
export const PATIENCE_FAULTS = 64;
const LOOK_EVERY_MS = 10;
/** On a channel of their own, requested pages do not wait behind background pages, so more of those may queue. */
const BACKGROUND_AHEAD_BYTES = { shared: 256 * 1024, preempt: 1 << 20 } as const;

export interface SessionOptions {
  readonly catalog: PageCatalog;
  readonly extents: ExtentSource;
  /** Opens one more connection to QEMU's incoming socket. Native code reads a connection that is not `readable`. */
  readonly connect: (readable: boolean) => Socket;
  /** When to make the second connection of `postcopy-preempt`: QEMU 7.2 reads nothing before it has both. */
  readonly preempt: 'off' | 'at-once' | 'after-pong';
  /** Fills its blocks without the stream. Excludes `postcopy-preempt`, with which QEMU 10 would never complete. */
  readonly direct: QemuMemory | undefined;
  /** What to send first through the stream when there is no direct path. */
  readonly prediction: Prediction | undefined;
  /** Page sizes of QEMU's memory. */
  readonly hostPages: HostPages;
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
  #shut = false;
  #direct: QemuMemory | undefined;
  feeder!: PageFeeder;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#direct = options.direct;
  }

  /** False when the memory had to go through the stream after all. */
  get isDirect(): boolean {
    return this.#direct !== undefined;
  }

  get sentBytes(): number {
    const channels = new Set([this.#main, this.#demand]);
    return [...channels].reduce((sum, channel) => sum + (channel?.sentBytes ?? 0), 0);
  }

  /** Sends the machine's state. Resolves when QEMU has it and memory is served on demand. */
  async start({ configuration, ramSectionId, deviceState }: MachineState): Promise<void> {
    const { catalog, hostPages } = this.#options;
    this.#openMain();
    this.#listen();
    if (this.#options.preempt === 'at-once') this.#openPreempt();
    this.#main.send(
      Buffer.concat([
        wire.streamHeader(configuration),
        wire.openReturnPath(),
        wire.ping(PINGS.connected),
        wire.postcopyAdvise(hostPages.sizeBits),
        wire.ramStart(ramSectionId, catalog.layout, hostPages),
      ]),
    );
    if (this.#options.preempt === 'after-pong') {
      await this.#pong(PINGS.connected);
      this.#openPreempt();
    }
    this.#startFeeding();
    const blocks = catalog.layout.blocks.filter(({ usedBytes }) => usedBytes > 0);
    const discards = blocks.map(({ name, usedBytes }) =>
      wire.discardRanges(name, [{ startBytes: 0, lengthBytes: usedBytes }]),
    );
    const machine = Buffer.concat([
      wire.postcopyListen(),
      wire.ping(PINGS.listening),
      deviceState,
      wire.postcopyRun(),
    ]);
    this.#main.send(Buffer.concat([...discards, wire.ping(PINGS.discarded)]));
    if (this.#direct !== undefined) {
      await this.#pong(PINGS.discarded);
      await this.#direct.prefetch();
    } else {
      await this.#sendBeforeResume(ramSectionId);
    }
    const rest = [wire.packaged(machine), wire.ping(PINGS.packaged), wire.ramPartOpen(ramSectionId)];
    this.#main.send(Buffer.concat(rest));
    await this.#pong(PINGS.listening);
    await this.#fillDirectly(() => this.#direct!.attach());
    await this.#pong(PINGS.packaged);
  }

  /** Takes over a VM in state postcopy-recover: asks QEMU which pages it has received, and sends the rest. */
  async recover(ramSectionId: number): Promise<void> {
    const { catalog, preempt } = this.#options;
    this.#openMain();
    // One write, before QEMU begins to read: if this process dies in the middle, QEMU still reaches RESUME, and returns
    // from there to postcopy-paused. Before RESUME, version 7.2 has no way back.
    this.#main.send(
      Buffer.concat([
        ...catalog.layout.blocks.map(({ name }) => wire.requestReceivedBitmap(name)),
        wire.postcopyResume(),
        wire.ramPartOpen(ramSectionId),
      ]),
    );
    if (preempt !== 'off') this.#openPreempt();
    this.#startFeeding();
    this.#listen();
    // The bitmaps arrive before this message, the first request after it.
    await this.#message('resumeAck', () => true);
    await this.#fillDirectly(() => this.#direct!.reattach());
  }

  /** Continues on the connection of a process that died while the stream was idle. */
  adopt(migrationSocket: number): void {
    this.#openMain(migrationSocket);
    this.#startFeeding();
    for (const { firstPage, endPage } of this.#streamRanges())
      for (let page = firstPage; page < endPage; page++) this.feeder.markReceived(page);
    this.#listen();
    this.#direct!.reattach();
  }

  /** Deposits what a successor needs to continue unnoticed. Does nothing without the direct path. */
  async bequeath(): Promise<void> {
    if (this.#direct === undefined) return;
    await this.#main.room(1);
    this.#direct.bequeath(descriptorOf(this.#sockets[0]!));
  }

  /** Sends all remaining memory and ends the migration. Resolves when QEMU reports that it has everything. */
  async finish(ramSectionId: number): Promise<void> {
    this.#direct?.startBackground();
    if (this.#direct === undefined) await this.#sendPredicted();
    await this.feeder.sendRest(this.#streamRanges(), this.#stop.signal);
    await this.#direct?.complete;
    this.#direct?.noteEnd();
    this.#mainEnded = true;
    // From version 8 on, QEMU reads this channel until every request is answered, including requests after the end.
    // An EOS would stop that: a guest that touches one more zero page would hang, and the migration with it.
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
      throw new VmckptError('TRANSFER_FAILED', `QEMU ended the transfer with status ${status}, expected 0`);
    this.close();
  }

  /** The demand faults, for the working set; complete once the session is closed. */
  observed(): Pick<ObservedFaults, 'faults' | 'beganAtMs'> {
    return this.#direct?.observed() ?? this.feeder.observed();
  }

  close(): void {
    this.#options.direct?.stop();
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Rejects when a connection is lost or a page cannot be served; never resolves. Race it against other promises. */
  failure(): Promise<never> {
    return new Promise((_resolve, reject) => {
      this.#stop.signal.addEventListener('abort', () => reject(this.#stop.signal.reason as Error), {
        once: true,
      });
      if (this.#stop.signal.aborted) reject(this.#stop.signal.reason as Error);
    });
  }

  #openMain(adopted?: number): void {
    const { catalog, connect } = this.#options;
    // The native reader, if there is one, reads QEMU's messages.
    const readable = this.#direct === undefined;
    const socket = adopted === undefined ? connect(readable) : new Socket({ fd: adopted, readable });
    this.#main = new Channel(this.#watch(socket), catalog.layout);
    this.#demand = this.#main;
  }

  /** Listens to QEMU's messages on the main connection, from which nothing has been read before. */
  #listen(): void {
    const returnPath = new ReturnPathParser(this.#options.catalog.layout, (message) =>
      this.#onMessage(message),
    );
    const read = (chunk: Buffer) => this.#guarded(() => returnPath.push(chunk));
    if (this.#direct === undefined) this.#sockets[0]!.on('data', read);
    else this.#direct.listen(descriptorOf(this.#sockets[0]!), read, () => this.#onMainClosed());
  }

  #openPreempt(): void {
    this.#demand = new Channel(this.#watch(this.#options.connect(true)), this.#options.catalog.layout);
  }

  /**
   * Lets the direct path serve its blocks. All other blocks are sent first, including their zero pages: the native
   * threads may read a fault in one of them and cannot answer it, and nothing may be written to QEMU afterwards.
   */
  async #fillDirectly(attach: () => void): Promise<void> {
    if (this.#direct === undefined) return;
    try {
      attach();
    } catch (error) {
      if (this.#direct.isAttached) throw error;
      await this.#forgoDirectPath(this.#direct);
      // Logged last, because the guest waits.
      await log(
        'error',
        { err: error },
        "memory cannot be filled directly: all of it goes through QEMU's stream",
      );
      return;
    }
    const ranges = this.#streamRanges();
    await this.feeder.sendZeros(ranges, this.#stop.signal);
    await this.feeder.sendRest(ranges, this.#stop.signal);
  }

  /** QEMU does not know which pages were installed directly, and must not get them again. */
  async #forgoDirectPath(direct: QemuMemory): Promise<void> {
    const inPlace = direct.inPlace();
    for (const { firstPage, presence } of inPlace)
      for (const [at, isPresent] of presence.entries())
        if (isPresent) this.feeder.markReceived(firstPage + at);
    const owned = this.#options.catalog.layout.blocks.filter((block) => direct.owns(block)).map(rangeOf);
    this.#direct = undefined;
    direct.forgo();
    // QEMU does not know of faults that a dead process read: it will not request their zero pages, nor make them.
    if (inPlace.some(({ presence }) => presence.includes(1)))
      await this.feeder.sendZeros(owned, this.#stop.signal);
  }

  /** QEMU treats pages before LISTEN as those of a pre-copy: they are in place when the VM runs. */
  async #sendBeforeResume(ramSectionId: number): Promise<void> {
    const { prediction } = this.#options;
    if (prediction === undefined || prediction.beforeResume.length === 0) return;
    const { beforeResume, budgetMs } = prediction;
    this.#main.send(wire.ramPartOpen(ramSectionId));
    await this.feeder.sendPredicted(beforeResume, this.#stop.signal, nowMs() + budgetMs);
    this.#main.send(wire.ramClose(ramSectionId));
  }

  /** In the same order as the direct path's background; withheld pages come last. */
  async #sendPredicted(): Promise<void> {
    const { prediction } = this.#options;
    if (prediction === undefined) return;
    const { predicted, near, likely, restMs, withheldMs } = prediction.background;
    const { signal } = this.#stop;
    const beganMs = nowMs();
    this.feeder.withhold(prediction.planned.withheld);
    await this.feeder.sendPredicted(predicted, signal);
    await this.feeder.sendPredicted(near, signal);
    const isUrgent = () => this.feeder.askedCount > this.feeder.counters.withheldFaults + PATIENCE_FAULTS;
    while (nowMs() < beganMs + restMs && !isUrgent()) await sleep(LOOK_EVERY_MS, undefined, { signal });
    await this.feeder.sendRest(rangesOf(likely), signal);
    await this.feeder.sendRest(this.#streamRanges(), signal);
    if (withheldMs > 0) await sleep(Math.max(0, beganMs + withheldMs - nowMs()), undefined, { signal });
    this.feeder.withholdNoLonger();
  }

  #streamRanges(): PageRange[] {
    return this.#options.catalog.layout.blocks.filter((block) => !this.#direct?.owns(block)).map(rangeOf);
  }

  #startFeeding(): void {
    const { catalog, extents, hostPages } = this.#options;
    const backgroundAheadBytes = BACKGROUND_AHEAD_BYTES[this.#demand === this.#main ? 'shared' : 'preempt'];
    this.feeder = new PageFeeder({
      catalog,
      extents,
      demand: this.#demand,
      background: this.#main,
      backgroundAheadBytes,
      hostPages,
    });
  }

  #watch(socket: Socket): Socket {
    this.#sockets.push(socket);
    const isMain = this.#sockets.length === 1;
    // QEMU closes the preempt channel as soon as it has read the end on the main one.
    const lost = (cause?: Error) => {
      if (isMain) this.#onMainClosed(cause);
      else if (!this.#mainEnded) this.#fail(lostConnection(cause));
    };
    socket.once('error', lost);
    socket.once('close', () => lost());
    return socket;
  }

  /** After the end, QEMU closes the main connection as well, once it has sent SHUT. */
  #onMainClosed(cause?: Error): void {
    if (!this.#mainEnded || !this.#shut) this.#fail(lostConnection(cause));
  }

  #onMessage(message: ReturnPathMessage): void {
    if (message.type === 'requestPages') {
      // After the end only zero pages are left. QEMU makes them itself, except on a separate channel, where it waits.
      if (!this.#mainEnded || this.#demand !== this.#main)
        this.feeder
          .answer(message.page, message.pageCount, this.#stop.signal)
          ?.catch((error: unknown) => this.#fail(error as Error));
      return;
    }
    if (message.type === 'receivedBitmap') return this.#markReceived(message);
    if (message.type === 'shut') this.#shut = true;
    const index = this.#waiting.findIndex(({ matches }) => matches(message));
    if (index < 0) this.#seen.push(message);
    else this.#waiting.splice(index, 1)[0]!.resolve(message);
  }

  #markReceived({ blockName, bitmap }: MessageOf<'receivedBitmap'>): void {
    const { firstPage, pageCount } = this.#options.catalog.layout.byName(blockName)!;
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
