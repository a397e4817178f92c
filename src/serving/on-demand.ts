/** Memory behind a VM that runs already, page by page as it is asked for, and the rest in the background. */
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
import { PostcopySession } from './postcopy/session.js';
import { prepareRecovery } from './postcopy/recovery.js';
import { careFor, placedIn, untilCompleted, type LoadingMachine, type TransferContext } from './context.js';
import { countTransfer } from './counters.js';
import type { TransferCounters } from '../serving-protocol/counters.js';
import type { ServingOrder } from '../serving-protocol/order.js';
import { log } from './log.js';
import type { DirectlyFilled } from '../serving-protocol/order.js';

const PAUSE_TIMEOUT_MS = 5_000;
/** After a VM has begun to run, for us to hear of it. */
const RESUME_COMES_MS = 500;
const BACKGROUND_WAITS_MS = 2_000;
/** As long as QEMU may take for its devices on the slowest host. */
const LOAD_TIMEOUT_MS = 600_000;

export class OnDemandTransfer {
  readonly #context: TransferContext;
  readonly #machine: LoadingMachine;
  #session: PostcopySession | undefined;
  #direct: QemuMemory | undefined;
  #prediction: Prediction | undefined;
  /** Before a successor there was somebody who has seen to that. */
  #hasLoaded: Promise<boolean> = Promise.resolve(true);
  /** What there is to learn, once the VM's memory is whole. */
  observed: ObservedFaults | undefined;

  constructor(context: TransferContext, machine: LoadingMachine, prediction: Prediction | undefined) {
    this.#context = context;
    this.#machine = machine;
    this.#prediction = prediction;
  }

  /** Returns when all memory is in place. */
  async run(order: ServingOrder): Promise<void> {
    const { folder, reader, extents } = this.#context;
    const estate = inherited();
    const hostPages = new HostPages(reader.layout, order.hugePages);
    // What a prediction knows, and could learn, are pages of 4 KiB.
    if (hasHugePages(order)) this.#prediction = undefined;
    this.#direct = order.memory && this.#directMemory(order, order.memory, { hostPages, estate });
    const session = new PostcopySession({
      catalog: reader,
      extents,
      connect: (readable) => connectTo(folder.file('migration.sock'), { readable }),
      preempt: order.preempt,
      direct: this.#direct,
      prediction: this.#prediction,
      hostPages,
    });
    this.#session = session;
    try {
      const served = this.#machine.isSuccessor
        ? this.#goOn(session, order, estate)
        : this.#startServing(session, order);
      await Promise.race([served, session.failure()]);
      await giveBack(this.#machine.monitor, order.capabilities);
    } catch (error) {
      if (error instanceof VmckptError && error.kind === 'damaged') await this.#keepFromRunning();
      throw error;
    } finally {
      session.close();
    }
  }

  counters(): TransferCounters {
    return countTransfer({
      feeder: this.#session?.feeder,
      direct: this.#direct?.counters(),
      filledPages: 0,
      sentBytes: this.#session?.sentBytes ?? 0,
    });
  }

  /** Of the path that has served the faults; null when there were none. */
  faultPercentilesUs(): number[] | null {
    if (this.counters().demandFaults === 0) return null;
    if ((this.#direct?.counters().demandFaults ?? 0) > 0) return this.#direct!.faultPercentilesUs();
    return this.#session?.feeder.faults.percentilesUs() ?? null;
  }

  async #startServing(
    session: PostcopySession,
    { runs, background, exactly, aftercare }: ServingOrder,
  ): Promise<void> {
    const { state, monitor } = this.#machine;
    let resumedAtMs: number | undefined;
    const loaded = untilLoaded(monitor, runs).then((atMs) => {
      resumedAtMs = atMs;
      return this.#noteLoaded(aftercare);
    });
    loaded.catch(() => undefined); // awaited below, unless the session fails first
    this.#hasLoaded = loaded.then(
      () => true,
      () => false,
    );
    await session.start(state);
    // Placing pages competes with loading the devices: the background waits for the machine.
    await Promise.race([loaded, sleep(BACKGROUND_WAITS_MS)]);
    setOptimizing(true);
    await session.bequeath();
    await parkAt('background', loaded);
    if (background === 'when-told') await this.#context.verb.toldToFill();
    await Promise.all([session.finish(state.ramSectionId), loaded]);
    if (resumedAtMs !== undefined && this.#prediction !== undefined)
      this.observed = {
        ...session.observed(),
        resumedAtMs,
        isComplete: true,
        isExact: exactly && session.isDirect,
      };
  }

  async #noteLoaded(aftercare: Aftercare | undefined): Promise<void> {
    const { status, verb } = this.#context;
    status.loaded = true;
    status.write('serving');
    await verb.tell({ type: 'machine-loaded' });
    await careFor(this.#context, aftercare);
  }

  /** In the place of a process that died: on its connection when the stream on it is whole, else on a new one. */
  async #goOn(session: PostcopySession, order: ServingOrder, { migrationSocket }: Estate): Promise<void> {
    const { state, monitor } = this.#machine;
    const { folder } = this.#context;
    await careFor(this.#context, order.aftercare);
    if (migrationSocket !== undefined && this.#direct?.isStreamIdle) {
      session.adopt(migrationSocket);
    } else {
      if (migrationSocket !== undefined) giveUp('migrationSocket', migrationSocket);
      if (!(await prepareRecovery(monitor, folder.file('migration.sock')))) return;
      await session.recover(state.ramSectionId);
      await session.bequeath();
    }
    await session.finish(state.ramSectionId);
    if (hasHugePages(order)) return;
    // What the predecessor was asked for went with it. The VM has run since a little later than that.
    const resumedAtMs = Date.parse(folder.read()!.restoredAt);
    this.observed = { ...session.observed(), resumedAtMs, isComplete: false, isExact: false };
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
   * The guest must not run on a page that cannot be had. A VM that runs waits for it. A QEMU that loads its devices still
   * would end when the connection does, but before that read zeros there, and let the VM run on them.
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

function hasHugePages({ hugePages = {} }: ServingOrder): boolean {
  return Object.keys(hugePages).length > 0;
}

/** Until QEMU has the whole machine: it then runs, since the returned wall clock (ms), or stays paused as it was told. */
async function untilLoaded(monitor: QmpClient, runs: boolean): Promise<number | undefined> {
  const options = { timeoutMs: LOAD_TIMEOUT_MS };
  if (runs) return (await monitor.waitForEvent(['RESUME'], options)).timestampMs;
  const status = v.object({ status: v.string() });
  const loaded = async () =>
    (await monitor.query(status, 'query-status', {}, options)).status !== 'inmigrate' || undefined;
  await poll(loaded, { what: 'QEMU to load the machine', everyMs: 5, ...options });
  return undefined;
}

/** QEMU refuses the next migration out of the VM, a save, while the post-copy capabilities are on. */
async function giveBack(monitor: QmpClient, names: readonly string[]): Promise<void> {
  await untilCompleted(monitor);
  const capabilities = names.map((capability) => ({ capability, state: false }));
  await monitor.execute('migrate-set-capabilities', { capabilities });
}
