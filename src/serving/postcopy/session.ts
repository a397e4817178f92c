/**
 * The post-copy conversation with an incoming QEMU, in which vmckpt is the source of a migration. docs/postcopy.md
 * gives the order of the messages and the reasons. A session starts a VM from a checkpoint, or continues where
 * another session has died.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../../errors.js';
import * as wire from '../../migration-stream/serializer.js';
import type { ExtentSource, PageCatalog } from '../../pages/contracts.js';
import type { HostPages } from '../../pages/host-pages.js';
import { rangeOf, type PageRange } from '../../pages/layout.js';
import { nowMs } from '../../timeline/clock.js';
import { PageFeeder } from '../../transfer/page-feeder.js';
import type { MachineState } from '../../transfer/whole-machine.js';
import { rangesOf } from '../../working-set/runs.js';
import type { QemuMemory } from '../memory/qemu-memory.js';
import { log } from '../log.js';
import type { ObservedFaults, Prediction } from '../../working-set/prediction.js';
import type { MessageOf } from './inbox.js';
import type { MigrationLink, PagesMessage } from './link.js';

const PINGS = { connected: 1, discarded: 2, listening: 3, packaged: 4 } as const;
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
  /** When to make the second connection of `postcopy-preempt`: QEMU 7.2 reads nothing before it has both. */
  readonly preempt: 'off' | 'at-once' | 'after-pong';
  /** Fills its blocks without the stream. Excludes `postcopy-preempt`, with which QEMU 10 would never complete. */
  readonly direct: QemuMemory | undefined;
  /** What to send first through the stream when there is no direct path. */
  readonly prediction: Prediction | undefined;
  /** Page sizes of QEMU's memory. */
  readonly hostPages: HostPages;
}

export class PostcopySession {
  readonly feeder: PageFeeder;
  readonly #link: MigrationLink;
  readonly #options: SessionOptions;
  #direct: QemuMemory | undefined;

  /** @param link with all connections that there will be */
  private constructor(link: MigrationLink, options: SessionOptions) {
    const { catalog, extents, hostPages, direct } = options;
    this.#link = link;
    this.#options = options;
    this.#direct = direct;
    this.feeder = new PageFeeder({
      catalog,
      extents,
      demand: link.demand,
      background: link.main,
      backgroundAheadBytes: BACKGROUND_AHEAD_BYTES[link.hasPreempt ? 'preempt' : 'shared'],
      hostPages,
    });
    link.serve((message) => this.#onPages(message));
  }

  /** Begins a migration, which `load()` continues. */
  static async begin(
    link: MigrationLink,
    options: SessionOptions,
    { configuration, ramSectionId }: MachineState,
  ): Promise<PostcopySession> {
    const { catalog, hostPages, preempt } = options;
    link.listen();
    if (preempt === 'at-once') link.openPreempt();
    link.main.send(
      Buffer.concat([
        wire.streamHeader(configuration),
        wire.openReturnPath(),
        wire.ping(PINGS.connected),
        wire.postcopyAdvise(hostPages.sizeBits),
        wire.ramStart(ramSectionId, catalog.layout, hostPages),
      ]),
    );
    if (preempt === 'after-pong') {
      await link.pong(PINGS.connected);
      link.openPreempt();
    }
    return new PostcopySession(link, options);
  }

  /** Takes over a VM in state postcopy-recover: asks QEMU which pages it has received, and sends the rest. */
  static async recover(
    link: MigrationLink,
    options: SessionOptions,
    ramSectionId: number,
  ): Promise<PostcopySession> {
    // One write, before QEMU begins to read: if this process dies in the middle, QEMU still reaches RESUME, and returns
    // from there to postcopy-paused. Before RESUME, version 7.2 has no way back.
    link.main.send(
      Buffer.concat([
        ...options.catalog.layout.blocks.map(({ name }) => wire.requestReceivedBitmap(name)),
        wire.postcopyResume(),
        wire.ramPartOpen(ramSectionId),
      ]),
    );
    if (options.preempt !== 'off') link.openPreempt();
    const session = new PostcopySession(link, options);
    link.listen();
    // The bitmaps arrive before this message, the first request after it.
    await link.next('resumeAck');
    await session.#fillDirectly((direct) => direct.reattach());
    return session;
  }

  /** Continues on the connection of a process that died while the stream was idle. */
  static adopt(
    link: MigrationLink,
    options: SessionOptions & { readonly direct: QemuMemory },
  ): PostcopySession {
    const session = new PostcopySession(link, options);
    for (const { firstPage, endPage } of session.#streamRanges())
      for (let page = firstPage; page < endPage; page++) session.feeder.markReceived(page);
    link.listen();
    options.direct.reattach();
    return session;
  }

  /** False when the memory had to go through the stream after all. */
  get isDirect(): boolean {
    return this.#direct !== undefined;
  }

  /** Sends the machine's state. Resolves when QEMU has it and memory is served on demand. */
  async load({ ramSectionId, deviceState }: MachineState): Promise<void> {
    const blocks = this.#options.catalog.layout.blocks.filter(({ usedBytes }) => usedBytes > 0);
    const discards = blocks.map(({ name, usedBytes }) =>
      wire.discardRanges(name, [{ startBytes: 0, lengthBytes: usedBytes }]),
    );
    const machine = Buffer.concat([
      wire.postcopyListen(),
      wire.ping(PINGS.listening),
      deviceState,
      wire.postcopyRun(),
    ]);
    const { main } = this.#link;
    main.send(Buffer.concat([...discards, wire.ping(PINGS.discarded)]));
    if (this.#direct !== undefined) {
      await this.#link.pong(PINGS.discarded);
      await this.#direct.prefetch();
    } else {
      await this.#sendBeforeResume(ramSectionId);
    }
    const rest = [wire.packaged(machine), wire.ping(PINGS.packaged), wire.ramPartOpen(ramSectionId)];
    main.send(Buffer.concat(rest));
    await this.#link.pong(PINGS.listening);
    await this.#fillDirectly((direct) => direct.attach());
    await this.#link.pong(PINGS.packaged);
  }

  /** Deposits what a successor needs to continue unnoticed. Does nothing without the direct path. */
  async bequeath(): Promise<void> {
    if (this.#direct === undefined) return;
    await this.#link.main.room(1);
    this.#direct.bequeath(this.#link.mainDescriptor);
  }

  /** Sends all remaining memory and ends the migration. Resolves when QEMU reports that it has everything. */
  async finish(ramSectionId: number): Promise<void> {
    this.#direct?.startBackground();
    if (this.#direct === undefined) await this.#sendPredicted();
    await this.feeder.sendRest(this.#streamRanges(), this.#link.signal);
    await this.#direct?.complete;
    this.#direct?.noteEnd();
    this.#link.beginEnd();
    // From version 8 on, QEMU reads this channel until every request is answered, including requests after the end.
    // An EOS would stop that: a guest that touches one more zero page would hang, and the migration with it.
    if (this.#options.preempt === 'at-once') {
      this.#link.demand.records.eos();
      this.#link.demand.flush();
    }
    const end = [
      wire.ramClose(ramSectionId),
      wire.ramEndOpen(ramSectionId),
      wire.ramClose(ramSectionId),
      wire.END_OF_STREAM,
    ];
    this.#link.main.send(Buffer.concat(end));
    const { status } = await this.#link.next('shut');
    if (status !== 0)
      throw new VmckptError('TRANSFER_FAILED', `QEMU ended the transfer with status ${status}, expected 0`);
    this.#link.close();
  }

  /** The demand faults, for the working set; complete once the session has finished. */
  observed(): Pick<ObservedFaults, 'faults' | 'beganAtMs'> {
    return this.#direct?.observed() ?? this.feeder.observed();
  }

  /**
   * Lets the direct path serve its blocks. All other blocks are sent first, including their zero pages: the native
   * threads may read a fault in one of them and cannot answer it, and nothing may be written to QEMU afterwards.
   */
  async #fillDirectly(attach: (direct: QemuMemory) => void): Promise<void> {
    if (this.#direct === undefined) return;
    try {
      attach(this.#direct);
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
    await this.feeder.sendZeros(ranges, this.#link.signal);
    await this.feeder.sendRest(ranges, this.#link.signal);
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
      await this.feeder.sendZeros(owned, this.#link.signal);
  }

  /** QEMU treats pages before LISTEN as those of a pre-copy: they are in place when the VM runs. */
  async #sendBeforeResume(ramSectionId: number): Promise<void> {
    const { prediction } = this.#options;
    if (prediction === undefined || prediction.beforeResume.length === 0) return;
    const { beforeResume, budgetMs } = prediction;
    this.#link.main.send(wire.ramPartOpen(ramSectionId));
    await this.feeder.sendPredicted(beforeResume, this.#link.signal, nowMs() + budgetMs);
    this.#link.main.send(wire.ramClose(ramSectionId));
  }

  /** In the same order as the direct path's background; withheld pages come last. */
  async #sendPredicted(): Promise<void> {
    const { prediction } = this.#options;
    if (prediction === undefined) return;
    const { predicted, near, likely, restMs, withheldMs } = prediction.background;
    const { signal } = this.#link;
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

  #onPages(message: PagesMessage): void {
    if (message.type === 'receivedBitmap') return this.#markReceived(message);
    // After the end only zero pages are left. QEMU makes them itself, except on a separate channel, where it waits.
    if (this.#link.isEnding && !this.#link.hasPreempt) return;
    this.feeder
      .answer(message.page, message.pageCount, this.#link.signal)
      ?.catch((error: unknown) => this.#link.fail(error as Error));
  }

  #markReceived({ blockName, bitmap }: MessageOf<'receivedBitmap'>): void {
    const { firstPage, pageCount } = this.#options.catalog.layout.byName(blockName)!;
    for (let page = 0; page < pageCount; page++)
      if (((bitmap[page >>> 3]! >>> (page & 7)) & 1) === 1) this.feeder.markReceived(firstPage + page);
  }
}
