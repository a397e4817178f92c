/**
 * The process that serves a restored VM's memory: one per VM, independent of the verb that started it, so that
 * nothing else delays a fault and the verb may end. Its arguments are the VM's name and the generation's folder.
 */
import { once } from 'node:events';
import { Socket } from 'node:net';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { VmckptError } from '../errors.js';
import { DecodePool } from '../checkpoint/decode-pool.js';
import { damageIn, openNativeImage } from '../checkpoint/native-image.js';
import { CheckpointReader } from '../checkpoint/reader.js';
import {
  connectUnix,
  MemoryFill,
  PageTable,
  type CheckpointImage,
  type FaultPathCounters,
} from '../native/index.js';
import type { BlockAddress } from '../qemu/guest-memory.js';
import { adoptMonitor, holdMonitor, releaseMonitor, type HeldMonitor } from '../qemu/held-monitor.js';
import { queryMigrate } from '../qemu/migration-control.js';
import { QmpClient } from '../qemu/qmp.js';
import { holdGeneration } from '../store/generation-use.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { PAGE_BYTES, type PlacedRamBlock } from '../pages/layout.js';
import type { PageFeeder } from '../transfer/page-feeder.js';
import { readMachineState, sendWholeMachine, type MachineState } from '../transfer/whole-machine.js';
import { poll } from '../util/deadline.js';
import { identifyProcess } from '../util/process-identity.js';
import { DirectMemory } from './direct-memory.js';
import { PostcopySession } from './postcopy-session.js';
import {
  orderSchema,
  type TransferCounters,
  type TransferMessage,
  type TransferOrder,
} from './transfer-job.js';
import { VmFolder } from './vm-record.js';

const STATUS_EVERY_MS = 250;
const PAUSE_TIMEOUT_MS = 5_000;
const MONITOR_TIMEOUT_MS = 10_000;
const PAUSED_TIMEOUT_MS = 30_000;
const BACKGROUND_WAITS_MS = 2_000;
/** As long as QEMU may take for its devices on the slowest host. */
const LOAD_TIMEOUT_MS = 600_000;
/** QEMU notices a closed connection at once. */
const GIVING_UP_MS = 2_000;
const COMPLETION_TIMEOUT_MS = 30_000;
/** More would wait for memory. */
const MAX_FILL_THREADS = 8;

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
  #held: HeldMonitor | undefined;
  #loaded: boolean;
  #noteFailed = false;
  #completeAtMs = 0;
  #image: CheckpointImage | undefined;
  /** Writes straight into QEMU's memory. */
  #fill: MemoryFill | undefined;

  private constructor(folder: VmFolder, generationDir: string, reader: CheckpointReader) {
    this.#folder = folder;
    this.#generationDir = generationDir;
    // What a process before this one has noted, whoever comes after this one may need as well.
    const former = folder.readTransfer();
    this.#held = former?.held;
    this.#loaded = former?.loaded ?? false;
    this.#reader = reader;
    this.#pool = new DecodePool(reader);
  }

  static async open(name: string, generationDir: string): Promise<Transfer> {
    holdGeneration(generationDir); // until this process ends
    return new Transfer(new VmFolder(name), generationDir, await CheckpointReader.open(generationDir));
  }

  /** From the loaded checkpoint to the last page in place. */
  async run(): Promise<void> {
    const state = await readMachineState(this.#reader);
    const order = once(process, 'message');
    const abandoned = once(process, 'disconnect').then(() => {
      throw new VmckptError('TRANSFER_FAILED', 'the verb ended before it had said what to do');
    });
    await tell({ type: 'loaded' });
    const [message] = (await Promise.race([order, abandoned])) as [unknown];
    abandoned.catch(() => undefined); // from here on the verb may go
    await this.#carryOut(orderSchema.parse(message), state);
    this.#writeStatus('complete');
    await log('info', { ...this.#counters() }, 'complete');
    await tell({ type: 'complete', counters: this.#counters(), completeAtMs: this.#completeAtMs });
  }

  async #carryOut(order: TransferOrder, state: MachineState): Promise<void> {
    this.#loaded = order.recover;
    const status = setInterval(() => this.#writeStatus('serving'), STATUS_EVERY_MS);
    this.#writeStatus('serving');
    try {
      await (order.mode === 'eager' ? this.#sendEagerly(order, state) : this.#serveOnDemand(order, state));
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

  async #serveOnDemand(order: TransferOrder, state: MachineState): Promise<void> {
    this.#monitor = await this.#openMonitor();
    this.#writeStatus('serving');
    if (order.recover && !(await this.#prepareRecovery(this.#monitor)))
      return this.#giveBack(this.#monitor, order.capabilities);
    this.#direct = order.memory && this.#directMemory(order.memory);
    const session = new PostcopySession({
      source: this.#reader,
      decoder: this.#pool,
      connect: () => connectUnix(this.#folder.file('migration.sock')),
      preempt: order.preempt,
      direct: this.#direct,
    });
    this.#sending = session;
    const loaded = order.recover ? undefined : untilLoaded(this.#monitor, order.runs);
    loaded?.catch(() => undefined); // awaited below, unless the session fails first
    const serve = async () => {
      await (order.recover ? session.recover(state.ramSectionId) : session.start(state));
      // Placing pages competes with loading the devices: the background waits for the machine.
      await Promise.race([loaded, sleep(BACKGROUND_WAITS_MS)]);
      await Promise.all([session.finish(state.ramSectionId), loaded?.then(() => this.#noteLoaded())]);
    };
    try {
      await Promise.race([serve(), session.failure()]);
      await this.#giveBack(this.#monitor, order.capabilities);
    } catch (error) {
      if (error instanceof VmckptError && error.kind === 'damaged') await this.#haltVm();
      throw error;
    } finally {
      session.close();
    }
  }

  #directMemory({ blockName, pid, hostAddress }: BlockAddress): DirectMemory | undefined {
    const { layout } = this.#reader;
    const block = layout.byName(blockName);
    if (block === undefined) return undefined;
    const image = this.#openImage();
    const table = new PageTable(layout.pageCount);
    return new DirectMemory({ image, table, layout, block, pid, hostAddress });
  }

  #openImage(): CheckpointImage {
    return (this.#image ??= openNativeImage(this.#generationDir, this.#reader.manifest));
  }

  /** From here on QEMU outlives the loss of its transfer; before, it gives up. */
  async #noteLoaded(): Promise<void> {
    this.#loaded = true;
    this.#writeStatus('serving');
    await tell({ type: 'machine-loaded' });
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

  /** Brings QEMU to where it takes another connection; false when it has all its memory already. */
  async #prepareRecovery(monitor: QmpClient): Promise<boolean> {
    const uri = `unix:${this.#folder.file('migration.sock')}`;
    const watch = new StatusWatch(monitor);
    let triggeredAtMs: number | undefined;
    let refusal: string | undefined;
    const attempt = async () => {
      try {
        await monitor.execute('migrate-recover', { uri }, { oob: true });
        return true;
      } catch (error) {
        if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') throw error;
        // Our predecessor died between its migrate-recover and its connection: QEMU listens for us. Version 10 says
        // so; 7.2 says the same for a moment when the connection was made and is being given up.
        const status = watch.latest();
        refusal = `${error.message}, and that its migration is ${status ?? 'in a state that it does not tell'}`;
        if (status === 'postcopy-recover-setup') return true;
        if (!error.message.includes('triggered already')) triggeredAtMs = undefined;
        else if (performance.now() - (triggeredAtMs ??= performance.now()) > GIVING_UP_MS) return true;
        // Refused until QEMU has noticed that its connection is gone, and for ever when it needs none any more.
        return status === 'completed' ? false : undefined;
      }
    };
    try {
      return await poll(attempt, {
        what: 'QEMU to notice the lost transfer',
        timeoutMs: PAUSED_TIMEOUT_MS,
        everyMs: 5,
      });
    } catch (cause) {
      if (refusal === undefined) throw cause;
      throw new VmckptError('TRANSFER_FAILED', `QEMU takes no other transfer: it says ${refusal}`, { cause });
    }
  }

  async #sendEagerly({ memory, runs }: TransferOrder, state: MachineState): Promise<void> {
    const filled = memory && (await this.#fillMemory(memory));
    const socket = new Socket({ fd: connectUnix(this.#folder.file('migration.sock')) });
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

  /** The block whose memory it has put in place; undefined where this process may not write into QEMU. */
  async #fillMemory({ blockName, pid, hostAddress }: BlockAddress): Promise<PlacedRamBlock | undefined> {
    const block = this.#reader.layout.byName(blockName);
    if (block === undefined) return undefined;
    const { firstPage, pageCount } = block;
    this.#fill = new MemoryFill({
      image: this.#openImage(),
      pid,
      regions: [{ address: hostAddress, firstPage, pageCount }],
      threads: Math.min(availableParallelism(), MAX_FILL_THREADS),
    });
    try {
      await this.#fill.run();
      return block;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EPERM') throw damageIn(error) ?? error;
      this.#fill = undefined;
      await log('info', { err: error }, 'no right to write into QEMU: its memory goes through the stream');
      return undefined;
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
        counters: { ...this.#counters() },
      });
    } catch (cause) {
      if (!this.#noteFailed) void log('error', { err: cause }, 'the state of this transfer cannot be noted');
      this.#noteFailed = true;
      this.#folder.touchTransfer();
    }
  }

  #counters(): TransferCounters {
    const direct = this.#direct?.counters();
    const feeder = this.#sending?.feeder;
    const sent = feeder?.counters;
    const directPages = direct ? direct.demandPages + direct.neighbourPages + direct.backgroundPages : 0;
    const background =
      (sent?.backgroundPages ?? 0) +
      (sent?.neighbourPages ?? 0) +
      (direct?.backgroundPages ?? 0) +
      (direct?.neighbourPages ?? 0);
    const filledPages = this.#fill?.pageCount ?? 0;
    return {
      demandFaults: (feeder?.faults.count ?? 0) + (direct?.demandFaults ?? 0),
      prefetchedPages: 0,
      prefetchUsedPages: 0,
      backgroundPages: filledPages + background,
      zeroPages: (sent?.zeroPages ?? 0) + (direct?.zeroPages ?? 0),
      transferredBytes: (filledPages + directPages) * PAGE_BYTES + (this.#sending?.sentBytes ?? 0),
      ...faultTimes(feeder, direct),
    };
  }
}

/** Of the path that has served the faults: on the direct one the stream's are a handful. */
function faultTimes(feeder: PageFeeder | undefined, direct: FaultPathCounters | undefined) {
  if (direct !== undefined && direct.demandFaults > 0) {
    const { faultP50Us, faultP90Us, faultP99Us, faultMaxUs, faultTotalMs } = direct;
    return { faultP50Us, faultP90Us, faultP99Us, faultMaxUs, vcpuBlockedMs: roundMs(faultTotalMs) };
  }
  const times = feeder?.faults.summary();
  return {
    faultP50Us: times?.p50 ?? 0,
    faultP90Us: times?.p90 ?? 0,
    faultP99Us: times?.p99 ?? 0,
    faultMaxUs: times?.max ?? 0,
    vcpuBlockedMs: roundMs(feeder?.faults.totalMs ?? 0),
  };
}

/**
 * The migration's status as QEMU told it last. One question at a time: while its main loop waits for a page it does
 * not answer, and a few unanswered commands would stop it from reading out-of-band ones.
 */
class StatusWatch {
  #asking = false;
  #status: string | undefined;

  constructor(private readonly monitor: QmpClient) {}

  latest(): string | undefined {
    if (!this.#asking) void this.#ask();
    return this.#status;
  }

  async #ask(): Promise<void> {
    this.#asking = true;
    try {
      this.#status = (await queryMigrate(this.monitor)).status;
    } catch {
      this.#status = undefined; // not answered in time
    } finally {
      this.#asking = false;
    }
  }
}

/** Until QEMU has the whole machine: it then runs, or stays paused as it was told. */
async function untilLoaded(monitor: QmpClient, runs: boolean): Promise<void> {
  const options = { timeoutMs: LOAD_TIMEOUT_MS };
  if (runs) return void (await monitor.waitForEvent(['RESUME'], options));
  const status = z.object({ status: z.string() });
  const loaded = async () =>
    (await monitor.query(status, 'query-status', {}, options)).status !== 'inmigrate' || undefined;
  await poll(loaded, { what: 'QEMU to load the machine', everyMs: 5, ...options });
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

/** Resolves when the message is on its way, or the verb is gone. */
function tell(message: TransferMessage): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined || !process.connected) return resolve();
    process.send(message, undefined, undefined, () => resolve());
  });
}

async function main(name: string, generationDir: string): Promise<number> {
  let transfer: Transfer | undefined;
  try {
    transfer = await Transfer.open(name, generationDir);
    await transfer.run();
    return 0;
  } catch (error) {
    const known = transfer === undefined ? error : transfer.fail(error);
    await log('error', { err: known }, 'failed');
    const { code, message, hint } =
      known instanceof VmckptError ? known : new VmckptError('TRANSFER_FAILED', String(known));
    await tell({ type: 'failed', code, message, hint });
    return known instanceof VmckptError ? known.exitCode : 1;
  }
}

// Whoever presses Ctrl-C means the verb: the VM needs its memory all the same.
process.on('SIGINT', () => undefined);
process.exitCode = await main(process.argv[2] ?? '', process.argv[3] ?? '');
process.exit();
