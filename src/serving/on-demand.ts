/** Loads memory for a VM that already runs: each page on request, the rest in the background. */
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { HostPages } from '../pages/host-pages.js';
import type { QmpClient } from '../qemu/qmp.js';
import { poll } from '../util/deadline.js';
import { setOptimizing } from '../util/optimizing.js';
import { parkAt } from '../util/park.js';
import type { ObservedFaults, Prediction } from '../working-set/prediction.js';
import type { Aftercare } from '../aftercare/order.js';
import { connectTo } from '../qemu/migration-socket.js';
import { QemuMemory } from './memory/qemu-memory.js';
import { killAtOnce } from '../vms/processes.js';
import { giveUp, inherited, type Estate } from './memory/estate.js';
import { MigrationLink } from './postcopy/link.js';
import { PostcopySession, type SessionOptions } from './postcopy/session.js';
import { prepareRecovery } from './postcopy/recovery.js';
import { careFor, placedIn, untilCompleted, type LoadingMachine, type TransferContext } from './context.js';
import { countTransfer } from './counters.js';
import type { TransferCounters } from '../serving-protocol/counters.js';
import type { ServingOrder } from '../serving-protocol/order.js';
import { log } from './log.js';
import type { DirectlyFilled } from '../serving-protocol/order.js';

const PAUSE_TIMEOUT_MS = 5_000;
/** How long the RESUME event may take to arrive after the VM has started to run. */
const RESUME_COMES_MS = 500;
const BACKGROUND_WAITS_MS = 2_000;
/** Loading the devices may take QEMU this long on the slowest host. */
const LOAD_TIMEOUT_MS = 600_000;

export class OnDemandTransfer {
  readonly #context: TransferContext;
  readonly #machine: LoadingMachine;
  #link: MigrationLink | undefined;
  #session: PostcopySession | undefined;
  #direct: QemuMemory | undefined;
  #prediction: Prediction | undefined;
  /** For a successor, true: its predecessor has already loaded the machine. */
  #hasLoaded: Promise<boolean> = Promise.resolve(true);
  /** What there is to learn from, once all memory is in place. */
  observed: ObservedFaults | undefined;

  constructor(context: TransferContext, machine: LoadingMachine, prediction: Prediction | undefined) {
    this.#context = context;
    this.#machine = machine;
    this.#prediction = prediction;
  }

  /** Returns when all memory is in place. */
  async run(order: ServingOrder): Promise<void> {
    const { reader, extents } = this.#context;
    const estate = inherited();
    const hostPages = new HostPages(reader.layout, order.hugePages);
    // Predictions are made of pages of 4 KiB.
    if (hasHugePages(order)) this.#prediction = undefined;
    this.#direct = order.memory && this.#directMemory(order, order.memory, { hostPages, estate });
    const options = {
      catalog: reader,
      extents,
      preempt: order.preempt,
      direct: this.#direct,
      prediction: this.#prediction,
      hostPages,
    };
    try {
      if (this.#machine.isSuccessor) await this.#goOn(order, options, estate);
      else await this.#startServing(order, options);
      await giveBack(this.#machine.monitor, order.capabilities);
    } catch (error) {
      if (error instanceof VmckptError && error.kind === 'damaged') await this.#keepFromRunning();
      throw error;
    } finally {
      this.#link?.close();
      this.#direct?.stop();
    }
  }

  counters(): TransferCounters {
    return countTransfer({
      feeder: this.#session?.feeder,
      direct: this.#direct?.counters(),
      filledPages: 0,
      sentBytes: this.#link?.sentBytes ?? 0,
    });
  }

  /** Whether the VM waits for a source that does not have what it asks for. */
  get waitsForSource(): boolean {
    const feeder = this.#session?.feeder;
    return feeder?.starvation.isStarving === true || this.#direct?.waitsForSource === true;
  }

  /** For the path that has served the faults; null when there were none. */
  faultPercentilesUs(): number[] | null {
    if (this.counters().demandFaults === 0) return null;
    if ((this.#direct?.counters().demandFaults ?? 0) > 0) return this.#direct!.faultPercentilesUs();
    return this.#session?.feeder.faults.percentilesUs() ?? null;
  }

  async #startServing(order: ServingOrder, options: SessionOptions): Promise<void> {
    const { runs, aftercare } = order;
    let resumedAtMs: number | undefined;
    const loaded = untilLoaded(this.#machine.monitor, runs).then((atMs) => {
      resumedAtMs = atMs;
      return this.#noteLoaded(aftercare);
    });
    loaded.catch(() => undefined); // awaited below, unless the session fails first
    this.#hasLoaded = loaded.then(
      () => true,
      () => false,
    );
    const session = await this.#withLink(undefined, (link) => this.#serve(link, { order, options, loaded }));
    if (resumedAtMs !== undefined && this.#prediction !== undefined)
      this.observed = {
        ...session.observed(),
        resumedAtMs,
        isComplete: true,
        isExact: order.exactly && session.isDirect,
      };
  }

  async #serve(link: MigrationLink, { order, options, loaded }: Start): Promise<PostcopySession> {
    const { state } = this.#machine;
    const session = (this.#session = await PostcopySession.begin(link, options, state));
    await session.load(state);
    // Installing pages competes with loading the devices, so the background waits for the machine.
    await Promise.race([loaded, sleep(BACKGROUND_WAITS_MS)]);
    setOptimizing(true);
    await session.bequeath();
    await parkAt('background', loaded);
    if (order.background === 'when-told') await this.#context.verb.toldToFill();
    await Promise.all([session.finish(state.ramSectionId), loaded]);
    return session;
  }

  async #noteLoaded(aftercare: Aftercare | undefined): Promise<void> {
    const { status, verb } = this.#context;
    status.loaded = true;
    status.write('serving');
    await verb.tell({ type: 'machine-loaded' });
    await careFor(this.#context, aftercare);
  }

  /** Replaces a process that died: on its connection if the stream is between messages, otherwise on a new one. */
  async #goOn(order: ServingOrder, options: SessionOptions, { migrationSocket }: Estate): Promise<void> {
    const { state, monitor } = this.#machine;
    const { folder } = this.#context;
    const { direct } = options;
    await careFor(this.#context, order.aftercare);
    const adopts = migrationSocket !== undefined && direct?.isStreamIdle === true;
    if (!adopts) {
      if (migrationSocket !== undefined) giveUp('migrationSocket', migrationSocket);
      if (!(await prepareRecovery(monitor, folder.file('migration.sock')))) return;
    }
    const session = await this.#withLink(adopts ? migrationSocket : undefined, async (link) => {
      const { ramSectionId } = state;
      if (adopts) this.#session = PostcopySession.adopt(link, { ...options, direct });
      else {
        this.#session = await PostcopySession.recover(link, options, ramSectionId);
        await this.#session.bequeath();
      }
      await this.#session.finish(ramSectionId);
      return this.#session;
    });
    if (hasHugePages(order)) return;
    // The predecessor's record of faults was lost with it. `restoredAt` is shortly before the VM ran.
    const resumedAtMs = Date.parse(folder.readNoted()!.restoredAt);
    this.observed = { ...session.observed(), resumedAtMs, isComplete: false, isExact: false };
  }

  /** Does `work` with a connection to QEMU, unless that is lost first. @param adopted a predecessor's */
  #withLink<T>(adopted: number | undefined, work: (link: MigrationLink) => Promise<T>): Promise<T> {
    const { folder, reader } = this.#context;
    const link = new MigrationLink({
      layout: reader.layout,
      connect: (readable) => connectTo(folder.file('migration.sock'), { readable }),
      adopted,
      direct: this.#direct,
    });
    this.#link = link;
    return Promise.race([work(link), link.failure()]);
  }

  #directMemory(
    { background, exactly }: ServingOrder,
    memory: DirectlyFilled,
    { hostPages, estate }: { readonly hostPages: HostPages; readonly estate: Estate },
  ): QemuMemory {
    const { reader, image } = this.#context;
    const { pageTable, userfaultfd } = estate;
    return new QemuMemory({
      image: image(),
      layout: reader.layout,
      qemuPid: memory.pid,
      blocks: placedIn(reader, memory),
      hostPages,
      pageTable,
      userfaultfd,
      demandOnly: background === 'never',
      exactly,
      prediction: this.#prediction,
    });
  }

  /**
   * Keeps the guest from running on a page that is missing for good. A VM that runs waits for the page. A QEMU that
   * is still loading its devices would read zeros when the connection closes, and could let the VM run on them: it is
   * killed.
   */
  async #keepFromRunning(): Promise<void> {
    if (!(await Promise.race([this.#hasLoaded, sleep(RESUME_COMES_MS)])))
      return killAtOnce(this.#machine.monitor.peerPid());
    try {
      await this.#machine.monitor.execute('migrate-pause', undefined, {
        oob: true,
        timeoutMs: PAUSE_TIMEOUT_MS,
      });
    } catch (error) {
      await log('error', { err: error }, 'migrate-pause failed');
    }
  }
}

interface Start {
  readonly order: ServingOrder;
  readonly options: SessionOptions;
  /** Rejects when the machine cannot be loaded. */
  readonly loaded: Promise<void>;
}

function hasHugePages({ hugePages = {} }: ServingOrder): boolean {
  return Object.keys(hugePages).length > 0;
}

/** Waits until QEMU has the whole machine. Returns when the VM runs (wall clock, ms); undefined if it stays paused. */
async function untilLoaded(monitor: QmpClient, runs: boolean): Promise<number | undefined> {
  const options = { timeoutMs: LOAD_TIMEOUT_MS };
  if (runs) return (await monitor.waitForEvent(['RESUME'], options)).timestampMs;
  const status = v.object({ status: v.string() });
  const loaded = async () =>
    (await monitor.query(status, 'query-status', {}, options)).status !== 'inmigrate' || undefined;
  await poll(loaded, { what: 'QEMU to load the machine', everyMs: 5, ...options });
  return undefined;
}

/** While the post-copy capabilities are on, QEMU refuses the next outgoing migration, so no save would be possible. */
async function giveBack(monitor: QmpClient, names: readonly string[]): Promise<void> {
  await untilCompleted(monitor);
  const capabilities = names.map((capability) => ({ capability, state: false }));
  await monitor.execute('migrate-set-capabilities', { capabilities });
}
