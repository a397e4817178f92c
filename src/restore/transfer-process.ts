/**
 * The process that serves a restored VM's memory: one per VM, independent of the verb that started it, so that
 * nothing else delays a fault and the verb may end. Its arguments are the VM's name and the generation's folder.
 */
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { DecodePool } from '../checkpoint/decode-pool.js';
import { damageIn, openNativeImage } from '../checkpoint/native-image.js';
import { CheckpointReader } from '../checkpoint/reader.js';
import { hasAddon, MemoryFill, type CheckpointImage } from '../native/index.js';
import { adoptMonitor, holdMonitor, releaseMonitor, type HeldMonitor } from '../qemu/held-monitor.js';
import { queryMigrate } from '../qemu/migration-control.js';
import { QmpClient } from '../qemu/qmp.js';
import { holdGeneration } from '../store/generation-use.js';
import { nowMs } from '../timeline/clock.js';
import { HostPages } from '../pages/host-pages.js';
import type { PlacedRamBlock } from '../pages/layout.js';
import type { PageFeeder } from '../transfer/page-feeder.js';
import { readMachineState, sendWholeMachine, type MachineState } from '../transfer/whole-machine.js';
import { poll } from '../util/deadline.js';
import { identifyProcess } from '../util/process-identity.js';
import { connectTo } from './connection.js';
import { DirectMemory, type BlockInQemu } from './direct-memory.js';
import { disclaim, inherited, type Estate } from './inheritance.js';
import { Prediction, type ObservedFaults, type PrefetchWishes } from '../working-set/prediction.js';
import { PostcopySession } from './postcopy-session.js';
import { prepareRecovery } from './recovery.js';
import { SUCCESSOR_FLAG, type TransferCounters, type TransferOrder } from './transfer-job.js';
import { countTransfer } from './transfer-counters.js';
import { VerbLine } from './verb-line.js';
import { VmFolder, type DirectlyFilled } from './vm-record.js';

const STATUS_EVERY_MS = 250;
const PAUSE_TIMEOUT_MS = 5_000;
const MONITOR_TIMEOUT_MS = 10_000;
const BACKGROUND_WAITS_MS = 2_000;
/** As long as QEMU may take for its devices on the slowest host. */
const LOAD_TIMEOUT_MS = 600_000;
const COMPLETION_TIMEOUT_MS = 30_000;
/** More would wait for memory. */
const MAX_FILL_THREADS = 8;

interface TransferSubject {
  /** The VM's. */
  readonly name: string;
  readonly generationDir: string;
  /** Undefined: nothing is predicted. */
  readonly wishes: PrefetchWishes | undefined;
  readonly verb: VerbLine;
}

interface Sending {
  readonly feeder: PageFeeder;
  readonly sentBytes: number;
}

class Transfer {
  readonly #folder: VmFolder;
  readonly #generationDir: string;
  readonly #reader: CheckpointReader;
  readonly #pool: DecodePool;
  #sending: Sending | undefined;
  #direct: DirectMemory | undefined;
  #monitor: QmpClient | undefined;
  readonly #verb: VerbLine;
  #held: HeldMonitor | undefined;
  #loaded: boolean;
  #noteFailed = false;
  #completeAtMs: number | undefined;
  readonly #wishes: PrefetchWishes | undefined;
  #prediction: Prediction | undefined;
  #observed: ObservedFaults | undefined;
  #image: CheckpointImage | undefined;
  /** Writes straight into QEMU's memory. */
  #fill: MemoryFill | undefined;

  private constructor({ name, generationDir, wishes, verb }: TransferSubject, reader: CheckpointReader) {
    const folder = new VmFolder(name);
    this.#folder = folder;
    this.#generationDir = generationDir;
    this.#verb = verb;
    this.#wishes = wishes;
    // What a process before this one has noted, whoever comes after this one may need as well.
    const former = folder.readTransfer();
    this.#held = former?.held;
    this.#loaded = former?.loaded ?? false;
    this.#reader = reader;
    this.#pool = new DecodePool(reader);
  }

  static async open(subject: TransferSubject): Promise<Transfer> {
    holdGeneration(subject.generationDir); // until this process ends
    return new Transfer(subject, await CheckpointReader.open(subject.generationDir));
  }

  /** From the loaded checkpoint to the last page in place. */
  async run(isSuccessor: boolean): Promise<void> {
    const state = await readMachineState(this.#reader);
    await this.#verb.tell({ type: 'loaded' });
    // A successor finds the plan in the page table.
    if (!isSuccessor) this.#predict();
    const order = isSuccessor ? this.#formerOrder() : await this.#verb.nextOrder();
    await this.#carryOut(order, state, isSuccessor);
    this.#writeStatus('complete');
    await log('info', { ...this.#counters() }, 'complete');
    const [counters, completeAtMs] = [this.#counters(), this.#completeAtMs!];
    // Before the verb ends: whoever stops the VM next ends this process as well.
    await this.#learn();
    await this.#verb.tell({ type: 'complete', counters, completeAtMs });
  }

  /** The disk is read while QEMU sets up its machine. */
  #predict(): void {
    this.#prediction = new Prediction(this.#reader, this.#generationDir, this.#wishes);
    const { worthReading } = this.#prediction;
    if (hasAddon() && worthReading.length > 0) this.#openImage().readAhead(worthReading);
  }

  async #learn(): Promise<void> {
    // The VM is whole, whatever becomes of this.
    try {
      const problem = this.#observed && (await this.#prediction?.learn(this.#observed));
      if (problem !== undefined) await log('info', {}, problem);
    } catch (error) {
      await log('error', { err: error }, 'nothing was learnt from this restore').catch(() => undefined);
    }
  }

  /** What a predecessor was told, and has not brought to its end. */
  #formerOrder(): TransferOrder {
    const record = this.#folder.read();
    // The verb notes it as well, and may have been quicker.
    const verbHasNoted = record?.qemu !== undefined && record.unattended !== true;
    if (record === undefined || !(this.#loaded || verbHasNoted))
      throw new VmckptError('TRANSFER_FAILED', 'the transfer process was killed before the VM ran');
    if (record.mode === 'eager')
      throw new VmckptError('TRANSFER_FAILED', 'the process that fills the memory was killed', {
        hint: 'An eager restore cannot be taken over: stop it, and restore the VM again.',
      });
    this.#loaded = true;
    const { preempt, capabilities, memory, hugePages } = record;
    return {
      mode: 'lazy',
      preempt,
      capabilities,
      hugePages,
      ...(memory && { memory }),
      runs: true,
      background: 'at-once',
    };
  }

  async #carryOut(order: TransferOrder, state: MachineState, isSuccessor: boolean): Promise<void> {
    const status = setInterval(() => this.#writeStatus('serving'), STATUS_EVERY_MS);
    this.#writeStatus('serving');
    try {
      if (order.mode === 'eager') await this.#sendEagerly(order, state);
      else await this.#serveOnDemand(order, state, isSuccessor);
      this.#completeAtMs = nowMs();
    } finally {
      clearInterval(status);
    }
  }

  /** Leaves the reason where `ps` finds it. */
  fail(error: unknown): VmckptError {
    const known =
      error instanceof VmckptError
        ? error
        : new VmckptError('TRANSFER_FAILED', String(error), { cause: error });
    this.#writeStatus(known.kind === 'damaged' ? 'damaged' : 'failed', known);
    return known;
  }

  async #serveOnDemand(order: TransferOrder, state: MachineState, isSuccessor: boolean): Promise<void> {
    this.#monitor = await this.#openMonitor();
    this.#writeStatus('serving');
    const estate = inherited();
    const hostPages = new HostPages(this.#reader.layout, order.hugePages);
    // What a prediction knows are pages of 4 KiB.
    if (Object.keys(order.hugePages ?? {}).length > 0) this.#prediction = undefined;
    this.#direct = order.memory && this.#directMemory(order, order.memory, { hostPages, estate });
    const session = new PostcopySession({
      source: this.#reader,
      decoder: this.#pool,
      connect: (readable) => connectTo(this.#folder.file('migration.sock'), { readable }),
      preempt: order.preempt,
      direct: this.#direct,
      prediction: this.#prediction,
      hostPages,
    });
    this.#sending = session;
    try {
      const served = isSuccessor
        ? this.#goOn(session, state, estate)
        : this.#startServing(session, state, order);
      await Promise.race([served, session.failure()]);
      await this.#giveBack(this.#monitor, order.capabilities);
    } catch (error) {
      if (error instanceof VmckptError && error.kind === 'damaged') await this.#haltVm();
      throw error;
    } finally {
      session.close();
    }
  }

  async #startServing(
    session: PostcopySession,
    state: MachineState,
    { runs, background }: TransferOrder,
  ): Promise<void> {
    let resumedAtMs: number | undefined;
    const loaded = untilLoaded(this.#monitor!, runs).then((atMs) => {
      resumedAtMs = atMs;
      return this.#noteLoaded();
    });
    loaded.catch(() => undefined); // awaited below, unless the session fails first
    await session.start(state);
    // Placing pages competes with loading the devices: the background waits for the machine.
    await Promise.race([loaded, sleep(BACKGROUND_WAITS_MS)]);
    await session.bequeath();
    if (background === 'when-told') await this.#verb.nextWord();
    await Promise.all([session.finish(state.ramSectionId), loaded]);
    if (resumedAtMs !== undefined) this.#observed = { ...session.observed(), resumedAtMs, isComplete: true };
  }

  /** In the place of a process that died: on its connection when the stream on it is whole, else on a new one. */
  async #goOn(session: PostcopySession, state: MachineState, { migrationSocket }: Estate): Promise<void> {
    if (migrationSocket !== undefined && this.#direct?.isStreamIdle) {
      session.adopt(migrationSocket);
    } else {
      if (migrationSocket !== undefined) disclaim('migrationSocket', migrationSocket);
      if (!(await prepareRecovery(this.#monitor!, this.#folder.file('migration.sock')))) return;
      await session.recover(state.ramSectionId);
      await session.bequeath();
    }
    await session.finish(state.ramSectionId);
  }

  #directMemory(
    { background }: TransferOrder,
    memory: DirectlyFilled,
    { hostPages, estate }: { readonly hostPages: HostPages; readonly estate: Estate },
  ): DirectMemory {
    const { layout } = this.#reader;
    const image = this.#openImage();
    const { pageTable, userfaultfd } = estate;
    const prediction = this.#prediction;
    return new DirectMemory({
      image,
      layout,
      pid: memory.pid,
      blocks: this.#placed(memory),
      hostPages,
      pageTable,
      userfaultfd,
      demandOnly: background === 'never',
      prediction,
    });
  }

  #placed({ blocks }: DirectlyFilled): BlockInQemu[] {
    return blocks.map(({ blockName, hostAddress }) => ({
      block: this.#reader.layout.byName(blockName)!,
      hostAddress,
    }));
  }

  #openImage(): CheckpointImage {
    return (this.#image ??= openNativeImage(this.#generationDir, this.#reader.manifest));
  }

  /** From here on QEMU outlives the loss of its transfer; before, it gives up. */
  async #noteLoaded(): Promise<void> {
    this.#loaded = true;
    this.#writeStatus('serving');
    await this.#verb.tell({ type: 'machine-loaded' });
  }

  /** Negotiated while QEMU's main loop is free: later it may itself wait for a page. */
  async #openMonitor(): Promise<QmpClient> {
    const adopted = this.#held && adoptMonitor(this.#held);
    if (adopted !== undefined) return adopted;
    const path = this.#folder.file('transfer.sock');
    const monitor = await QmpClient.connect({ path, timeoutMs: MONITOR_TIMEOUT_MS, oob: true });
    this.#held = await holdMonitor(monitor);
    return monitor;
  }

  async #sendEagerly({ memory, runs }: TransferOrder, state: MachineState): Promise<void> {
    const filled = memory === undefined ? [] : await this.#fillMemory(memory);
    const socket = connectTo(this.#folder.file('migration.sock'), { readable: true });
    const broken = once(socket, 'error').then(([cause]) => {
      throw new VmckptError(
        'TRANSFER_FAILED',
        'QEMU closed the migration connection while it was being loaded',
        { cause },
      );
    });
    const signal = new AbortController().signal;
    const sent = sendWholeMachine({
      source: this.#reader,
      decoder: this.#pool,
      out: socket,
      state,
      filled,
      signal,
    });
    this.#sending = await Promise.race([sent, broken]);
    if (runs) await this.#letRun();
    this.#loaded = true;
  }

  /** The verb does the same, unless it has died in the meantime. */
  async #letRun(): Promise<void> {
    const path = this.#folder.file('transfer.sock');
    const monitor = await QmpClient.connect({ path, timeoutMs: MONITOR_TIMEOUT_MS });
    try {
      await untilCompleted(monitor);
      await monitor.execute('cont');
    } finally {
      await monitor.close();
    }
  }

  /** The blocks whose memory it has put in place; none where this process may not write into QEMU. */
  async #fillMemory(memory: DirectlyFilled): Promise<PlacedRamBlock[]> {
    const blocks = this.#placed(memory);
    this.#fill = new MemoryFill({
      image: this.#openImage(),
      pid: memory.pid,
      regions: blocks.map(({ block: { firstPage, pageCount }, hostAddress }) => ({
        address: hostAddress,
        firstPage,
        pageCount,
      })),
      threads: Math.min(availableParallelism(), MAX_FILL_THREADS),
    });
    try {
      await this.#fill.run();
      return blocks.map(({ block }) => block);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EPERM') throw damageIn(error) ?? error;
      this.#fill = undefined;
      await log('info', { err: error }, 'no right to write into QEMU: its memory goes through the stream');
      return [];
    }
  }

  /** QEMU refuses the next migration out of the VM, a save, while the post-copy capabilities are on. */
  async #giveBack(monitor: QmpClient, names: readonly string[]): Promise<void> {
    await untilCompleted(monitor);
    const capabilities = names.map((capability) => ({ capability, state: false }));
    await monitor.execute('migrate-set-capabilities', { capabilities });
    if (this.#held !== undefined) await releaseMonitor(monitor);
  }

  /** The guest must not run on a page that cannot be had. */
  async #haltVm(): Promise<void> {
    try {
      await this.#monitor?.execute('migrate-pause', undefined, { oob: true, timeoutMs: PAUSE_TIMEOUT_MS });
    } catch (error) {
      await log('error', { err: error }, 'migrate-pause failed');
    }
  }

  /** What cannot be noted costs `ps` its view, never the VM its memory. */
  #writeStatus(status: 'serving' | 'complete' | 'failed' | 'damaged', error?: VmckptError): void {
    const self = identifyProcess(process.pid);
    if (self === undefined) return;
    try {
      this.#folder.writeTransfer({
        process: self,
        status,
        loaded: this.#loaded,
        ...(this.#held && { held: this.#held }),
        ...(error && { error: { code: error.code, message: error.message } }),
        ...(this.#completeAtMs !== undefined && { completeAtMs: this.#completeAtMs }),
        counters: { ...this.#counters() },
      });
    } catch (cause) {
      if (!this.#noteFailed) void log('error', { err: cause }, 'the state of this transfer cannot be noted');
      this.#noteFailed = true;
      this.#folder.touchTransfer();
    }
  }

  #counters(): TransferCounters {
    return countTransfer({
      feeder: this.#sending?.feeder,
      direct: this.#direct?.counters(),
      filledPages: this.#fill?.pageCount ?? 0,
      sentBytes: this.#sending?.sentBytes ?? 0,
    });
  }
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

async function untilCompleted(monitor: QmpClient): Promise<void> {
  await poll(async () => (await queryMigrate(monitor)).status === 'completed' || undefined, {
    what: 'QEMU to complete the migration',
    timeoutMs: COMPLETION_TIMEOUT_MS,
    everyMs: 2,
  });
}

/** The logger is loaded when there is something to say, not while QEMU waits for its memory. */
async function log(level: 'info' | 'error', fields: object, text: string): Promise<void> {
  const { pino } = await import('pino');
  pino({ base: { pid: process.pid } })[level](fields, text);
}

async function main(isSuccessor: boolean, subject: Omit<TransferSubject, 'verb'>): Promise<number> {
  const verb = new VerbLine();
  let transfer: Transfer | undefined;
  try {
    transfer = await Transfer.open({ ...subject, verb });
    await transfer.run(isSuccessor);
    return 0;
  } catch (error) {
    const known = transfer === undefined ? error : transfer.fail(error);
    const { code, message, hint, exitCode } =
      known instanceof VmckptError ? known : new VmckptError('TRANSFER_FAILED', String(known));
    await verb.tell({ type: 'failed', code, message, hint });
    await log('error', { err: known }, 'failed').catch(() => undefined);
    return exitCode;
  }
}

// Whoever presses Ctrl-C means the verb: the VM needs its memory all the same.
process.on('SIGINT', () => undefined);
const [name = '', generationDir = '', ...rest] = process.argv.slice(2);
const wishes = rest[0]?.startsWith('{') ? (JSON.parse(rest[0]) as PrefetchWishes) : undefined;
process.exitCode = await main(rest.includes(SUCCESSOR_FLAG), { name, generationDir, wishes });
process.exit();
