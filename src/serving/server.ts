/** Serves one restored VM's memory: takes its order, loads the machine, brings all memory, and learns from that. */
import { FileExtents } from '../checkpoint/file-extents.js';
import { openNativeImage } from '../checkpoint/native-image.js';
import type { CheckpointReader } from '../checkpoint/reader.js';
import { VmckptError } from '../errors.js';
import { hasAddon, type CheckpointImage } from '../native/index.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { Arrival } from '../page-server/arrival.js';
import { ArrivingExtents } from '../page-server/arriving-extents.js';
import { LockFile } from '../store/lock-file.js';
import { adoptMonitor, holdMonitor, releaseMonitor } from '../qemu/held-monitor.js';
import { QmpClient } from '../qemu/qmp.js';
import { Generation } from '../store/generation.js';
import type { GenerationUse } from '../store/generation-use.js';
import { nowMs } from '../timeline/clock.js';
import { readMachineState } from '../transfer/whole-machine.js';
import { debugSteps, elided } from '../util/debug.js';
import { setOptimizing } from '../util/optimizing.js';
import { parkAt } from '../util/park.js';
import { Prediction, type ObservedFaults } from '../working-set/prediction.js';
import { pagesOf, type PageRuns } from '../working-set/runs.js';
import { EagerTransfer } from './eager.js';
import { OnDemandTransfer } from './on-demand.js';
import type { LoadingMachine, TransferContext } from './context.js';
import { countTransfer } from './counters.js';
import type { ServerArguments } from '../serving-protocol/arguments.js';
import type { TransferCounters } from '../serving-protocol/counters.js';
import type { ServingOrder } from '../serving-protocol/order.js';
import { Fetching } from './fetching.js';
import { log } from './log.js';
import { TransferStatus } from './status.js';
import type { VerbLine } from './verb-line.js';
import { VmFolder } from '../vms/folder.js';

const MONITOR_TIMEOUT_MS = 10_000;

interface Service extends Omit<ServerArguments, 'isSuccessor'> {
  readonly verb: VerbLine;
}

export class Server {
  readonly #service: Service;
  readonly #context: TransferContext;
  readonly #use: GenerationUse;
  /** Of a generation that is still arriving. */
  readonly #arrival: Arrival | undefined;
  readonly #fetching: Fetching | undefined;
  #image: CheckpointImage | undefined;
  #prediction: Prediction | undefined;
  #way: EagerTransfer | OnDemandTransfer | undefined;

  private constructor(service: Service, reader: CheckpointReader, use: GenerationUse) {
    const { name, generation, verb } = service;
    const folder = new VmFolder(name);
    this.#service = service;
    this.#use = use;
    this.#arrival = Arrival.of(generation.dir, reader.manifest);
    this.#fetching = this.#arrival && Fetching.of(generation);
    this.#context = {
      folder,
      reader,
      extents: this.#arrival ? new ArrivingExtents(reader, this.#arrival) : new FileExtents(reader),
      image: () => (this.#image ??= openNativeImage(generation.dir, reader.manifest, this.#arrival?.native)),
      status: new TransferStatus(folder, {
        counters: () => this.#counters(),
        waitsForSource: () => this.#way?.waitsForSource ?? false,
      }),
      verb,
    };
  }

  /** @throws VmckptError VM_STATE when another process already serves this VM, and as CheckpointReader.open() */
  static async open(service: Service): Promise<Server> {
    const { name } = service;
    const folder = new VmFolder(name);
    if (LockFile.tryTake(folder.file('transfer.lock')) === undefined)
      throw new VmckptError('VM_STATE', `another process serves the memory of "${name}" already`, {
        hint: 'vmckpt ps shows the status of every restored VM.',
      });
    const generation = new Generation(service.generation);
    let use: GenerationUse | undefined;
    try {
      use = generation.hold();
      return new Server(service, generation.openReader(), use);
    } catch (error) {
      use?.release();
      if (error instanceof VmckptError) noteNotOpened(folder, error);
      throw error;
    }
  }

  /** Called when nothing reads the generation any more. */
  close(): void {
    this.#fetching?.close();
    this.#use.release();
  }

  /** From the loaded checkpoint to the last page in place. */
  async run(isSuccessor: boolean): Promise<void> {
    const { reader, status, verb } = this.#context;
    const step = debugSteps('serving');
    const state = await readMachineState(reader);
    step(isSuccessor ? 'a successor has opened the checkpoint' : 'the checkpoint is open');
    await verb.tell({ type: 'checkpoint-opened' });
    await parkAt(isSuccessor ? 'taking-over' : 'opened');
    // A successor finds the plan in the page table.
    if (!isSuccessor) this.#predict();
    const [order, monitor] = isSuccessor
      ? [this.#formerOrder(), await this.#openMonitor()]
      : await this.#takeOrder();
    step(`the order is here: ${elided(order)}`);
    await parkAt('loading');
    await status.during(this.#carryOut(order, { state, monitor, isSuccessor }));
    const completeAtMs = nowMs();
    status.completeAtMs = completeAtMs;
    status.write('complete');
    step(`all memory is in place: ${elided(this.#counters())}`);
    await log('info', { ...this.#counters() }, 'complete');
    const problem = this.#prediction?.problem;
    if (problem !== undefined) await log('info', {}, `nothing was predicted: ${problem}`);
    const counters = this.#counters();
    const onDemand = this.#way instanceof OnDemandTransfer ? this.#way : undefined;
    const faultPercentilesUs = onDemand?.faultPercentilesUs() ?? null;
    // Before the verb ends: what stops the VM next also ends this process.
    await this.#learn(onDemand?.observed);
    await parkAt('complete');
    await verb.tell({ type: 'complete', counters, faultPercentilesUs, completeAtMs });
  }

  /** Records the reason where `ps` finds it. */
  fail(error: unknown): VmckptError {
    const known =
      error instanceof VmckptError
        ? error
        : new VmckptError('TRANSFER_FAILED', String(error), { cause: error });
    this.#context.status.write(known.kind === 'damaged' ? 'damaged' : 'failed', known);
    return known;
  }

  /** Reads from the disk while QEMU sets up its machine. */
  #predict(): void {
    const { wishes } = this.#service;
    this.#prediction = new Prediction(this.#context.reader, wishes);
    const { worthReading } = this.#prediction;
    if (worthReading.length === 0) return;
    if (this.#arrival !== undefined)
      this.#context.extents.willNeed(extentsOf(this.#context.reader, worthReading));
    else if (hasAddon()) this.#context.image().readAhead(worthReading);
  }

  async #takeOrder(): Promise<[ServingOrder, QmpClient]> {
    const { verb } = this.#context;
    await verb.qemuReady();
    return Promise.all([verb.order(), this.#openMonitor()]);
  }

  /** Opened while QEMU's main loop is free: later the loop itself may wait for a page. */
  async #openMonitor(): Promise<QmpClient> {
    const { folder, status } = this.#context;
    const adopted = status.held && adoptMonitor(status.held);
    if (adopted !== undefined) return adopted;
    const path = folder.file('transfer.sock');
    const monitor = await QmpClient.connect({ path, timeoutMs: MONITOR_TIMEOUT_MS, oob: true });
    status.held = await holdMonitor(monitor);
    return monitor;
  }

  /** The order of the first process, for a successor. */
  #formerOrder(): ServingOrder {
    const { folder, status } = this.#context;
    const record = folder.readNoted();
    // The verb records that the VM runs as well, and may have been faster.
    const verbHasNoted = record?.qemu !== undefined;
    if (record?.order === undefined || !(status.loaded || verbHasNoted))
      throw new VmckptError('TRANSFER_FAILED', 'the serving process was killed before the VM ran');
    if (record.order.mode === 'eager')
      throw new VmckptError('TRANSFER_FAILED', 'the process that fills the memory was killed', {
        hint: 'An eager restore cannot be taken over: stop it, and restore the VM again.',
      });
    status.loaded = true;
    return record.order;
  }

  async #carryOut(order: ServingOrder, machine: LoadingMachine): Promise<void> {
    const { status } = this.#context;
    if (order.background !== 'never') this.#fetching?.fill();
    if (order.mode === 'eager') {
      setOptimizing(true);
      this.#way = new EagerTransfer(this.#context, machine);
      await this.#way.run(order);
    } else {
      this.#way = new OnDemandTransfer(this.#context, machine, this.#prediction);
      await this.#way.run(order);
    }
    if (status.held !== undefined) await releaseMonitor(machine.monitor);
  }

  async #learn(observed: ObservedFaults | undefined): Promise<void> {
    // The VM has all of its memory: a failure here must not affect it.
    try {
      if (observed === undefined) return;
      const { reader } = this.#context;
      // A successor has predicted nothing.
      const prediction = this.#prediction ?? new Prediction(reader, undefined);
      const problem = await prediction.learn(observed);
      if (problem !== undefined) await log('info', {}, problem);
    } catch (error) {
      await log('error', { err: error }, 'nothing was learned from this restore').catch(() => undefined);
    }
  }

  #counters(): TransferCounters {
    return (
      this.#way?.counters() ??
      countTransfer({ feeder: undefined, direct: undefined, filledPages: 0, sentBytes: 0 })
    );
  }
}

/** The extents of these pages, in the order in which they are needed. */
function extentsOf(reader: CheckpointReader, pages: PageRuns): number[] {
  const extents = new Set<number>();
  for (const page of pagesOf(pages))
    if (reader.kindOf(page) === PAGE_KINDS.data) extents.add(reader.extentOf(page));
  return [...extents];
}

/** Keeps the counters: the cause may be temporary, and the next process continues from them. */
function noteNotOpened(folder: VmFolder, error: VmckptError): void {
  const { counters } = folder.readTransfer() ?? {};
  const noted = { counters: () => counters ?? {}, waitsForSource: () => false };
  new TransferStatus(folder, noted).write('failed', error);
}
