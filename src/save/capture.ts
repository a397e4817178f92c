/**
 * A running VM into a generation's folder, from outside: QEMU's process is read, and QEMU is asked for no more than its
 * devices. While its writes are tracked, all memory is read as the VM runs. Then the VM is paused for what was written
 * since: its devices, and the copying of these pages. They are stored when it runs again.
 */
import { DeviceCapture } from '../capture/device-capture.js';
import { PageReader, type FilledSlab } from '../capture/page-reader.js';
import { countPages, eachPage, groupsOf, without } from '../capture/page-runs.js';
import { captureRefused, memoryChanged } from '../capture/refused.js';
import { refuseCapture } from '../capture/refusals.js';
import { Standstill, type Stopped } from '../capture/standstill.js';
import { streamParts } from '../capture/stream-parts.js';
import type { PageRuns } from '../capture/tracker.js';
import { CheckpointWriter, type Chain } from '../checkpoint/writer.js';
import { asUnpaused, withGlobalState } from '../migration-stream/global-state.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { parseCommandLine } from '../qemu/command-line.js';
import type { VmDescription } from '../qemu/inspect.js';
import type { QmpClient } from '../qemu/qmp.js';
import { debugSteps } from '../util/debug.js';
import { parkAt } from '../util/park.js';
import { formatBytes } from '../util/units.js';
import type { DiskWatch } from './disk-watch.js';
import type { Instant } from './instant.js';
import { SaveTracking } from './kept-tracking.js';
import { PauseClock } from './pause-clock.js';
import { refuseLostSleep, savedStateOf } from './run-states.js';
import { stateIn, type Transferred } from './transfer.js';
import type { VmJournal } from './vm-journal.js';

/** Besides the first. */
const MAX_MORE_PASSES = 4;
/** Another pass has to leave less than this share of what the one before has left. */
const MIN_PROGRESS = 0.75;
/** The rest is for QEMU: to stop, to save its devices, and to go on. */
const COPYING_SHARE = 0.5;
/** How many pages are read before it is asked again which ones were written: 32 MiB. */
const PAGES_PER_LOOK = 8192;
/** What is copied in the pause and stored after it is in memory meanwhile. */
const MAX_COPIED_BYTES = 64 << 20;

export interface CaptureOptions {
  readonly qmp: QmpClient;
  readonly vm: VmDescription;
  /** Of the generation that is written. */
  readonly dir: string;
  readonly chain: Chain;
  readonly journal: VmJournal;
  readonly level: number | 'none';
  /** Where `dir` is. */
  readonly storeDir: string;
  /** Whether the tracking goes on for the next save; undefined: if it did before. */
  readonly track?: boolean | undefined;
  /** How long the VM may stand still at a time, as far as it lets that be. */
  readonly maxPauseMs: number;
  readonly instant: Instant;
  readonly disks: DiskWatch;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly onDetail?: ((text: string) => void) | undefined;
  readonly signal: AbortSignal;
}

export interface Captured extends Transferred {
  /** To be kept or ended by the caller; undefined where it does not go on. */
  readonly tracking: SaveTracking | undefined;
}

/**
 * @throws VmckptError CAPTURE_REFUSED before anything is changed in the VM, or where its memory is not what it was;
 *   NO_SPACE, VM_STATE, TIMEOUT, QMP_CLOSED, QEMU_DIED, or the signal's reason
 */
export async function capture(options: CaptureOptions): Promise<Captured> {
  const { qmp, vm, signal, chain, onMessage, onDetail } = options;
  refuseCapture(vm);
  const how = { isSandboxed: isSandboxed(vm.args), signal };
  const { storeDir, track: goesOn } = options;
  const { formerDir } = chain;
  const tracking = await SaveTracking.open({ qmp, vm, how, storeDir, formerDir, goesOn, onDetail });
  const reader = new PageReader(vm.pid, tracking.blocks);
  try {
    await parkAt('tracked');
    return await captureWith(options, { reader, tracking });
  } catch (error) {
    await tracking.lose(onMessage);
    throw error;
  } finally {
    await reader.close();
  }
}

async function captureWith(
  options: CaptureOptions,
  tools: Omit<Tools, 'devices' | 'writer'>,
): Promise<Captured> {
  const { qmp, journal } = options;
  const devices = await DeviceCapture.prepare(qmp, journal.directory);
  try {
    const writer = await writerFor(options, tools);
    try {
      return await new Capture(options, { ...tools, devices, writer }).take();
    } catch (error) {
      await writer.abort();
      throw error;
    }
  } finally {
    devices.close();
  }
}

async function writerFor(
  { dir, chain, level }: CaptureOptions,
  { reader, tracking }: Omit<Tools, 'devices' | 'writer'>,
): Promise<CheckpointWriter> {
  const inherited = tracking.since?.id;
  const { layout } = reader;
  const writer = CheckpointWriter.create(dir, { layout, level, chain: { ...chain, inherited } });
  try {
    if (inherited !== undefined && !writer.inherits) await tracking.restart();
    const { kind, shortfall } = tracking.tracker;
    if (kind === 'none') throw captureRefused(shortfall ?? 'its writes cannot be tracked');
    return writer;
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

function isSandboxed(args: readonly string[]): boolean {
  return parseCommandLine(args).some(({ name, value = '' }) => name === 'sandbox' && !/^off\b/.test(value));
}

interface Tools {
  readonly reader: PageReader;
  readonly tracking: SaveTracking;
  readonly devices: DeviceCapture;
  readonly writer: CheckpointWriter;
}

/** What was taken while the VM stood still. */
interface Taken {
  readonly status: string;
  readonly isOurs: boolean;
  readonly savedDevices: Buffer;
  /** Before the devices were saved, and since; a page may stand in both. */
  readonly written: readonly [PageRuns, PageRuns];
  /** Of these, those that are not stored yet. */
  readonly kept: readonly [FilledSlab[], FilledSlab[]];
}

class Capture {
  readonly #options: CaptureOptions;
  readonly #tools: Tools;
  readonly #standstill: Standstill;
  readonly #pause: PauseClock;
  readonly #step = debugSteps('save');
  readonly #dirty = new Set<number>();
  /** Written before the save began. */
  #writtenBefore: PageRuns = new Uint32Array(0);
  #iterations = 0;
  #readPages = 0;

  constructor(options: CaptureOptions, tools: Tools) {
    this.#options = options;
    this.#tools = tools;
    const { qmp, journal } = options;
    const note = { wasRunning: true, method: 'capture', capabilities: {}, parameters: {} } as const;
    this.#standstill = new Standstill(qmp, {
      stopping: () => journal.write(note),
      running: () => journal.clear(),
    });
    this.#pause = new PauseClock(qmp);
  }

  async take(): Promise<Captured> {
    const { qmp, vm } = this.#options;
    const { reader, tracking, writer } = this.#tools;
    const { tracker, goesOn, since } = tracking;
    if (since === undefined) {
      await this.#arm();
      await this.#read(reader.allPages);
      await this.#readUntilItFits(tracker.look());
    } else {
      this.#noteTracked(since.written);
      await this.#readUntilItFits(since.written);
    }
    const { status, isOurs, savedDevices, written, kept } = await this.#takeInstant();
    if (!goesOn) await tracking.end();
    this.#step('the VM runs again, what was written is copied');
    await reader.store(kept[0], writer, new Set(eachPage(written[1])));
    await reader.store(kept[1], writer);
    await this.#refuseChangedBlocks();
    refuseLostSleep(qmp);
    savedStateOf(status, qmp.version);
    const parts = streamParts({ machineName: vm.machineType, layout: reader.layout, savedDevices });
    const deviceState = withGlobalState(parts.deviceState, status);
    const stream = { ...parts, deviceState: isOurs ? asUnpaused(deviceState) : deviceState };
    for (const runs of written) this.#noteDirty(runs);
    const result = {
      pauseMs: this.#pause.totalMs(),
      iterations: this.#iterations + 1,
      capture: {
        ...{ tracker: tracker.kind, tracked: since !== undefined, goesOn },
        copiedBytes: written.reduce((sum, runs) => sum + countPages(runs), 0) * PAGE_BYTES,
        roundTrips: this.#standstill.roundTrips,
      },
    };
    const state = stateIn(stream, qmp.version);
    return {
      stream,
      writer,
      dirtyPages: [...this.#dirty],
      result,
      state,
      tracking: goesOn ? tracking : undefined,
    };
  }

  /** All other pages are what they are in the generation before. */
  #noteTracked(written: PageRuns): void {
    const { vm, onDetail } = this.#options;
    this.#writtenBefore = written;
    const bytes = countPages(written) * PAGE_BYTES;
    onDetail?.(
      `Only what the VM has written since the last save is read: ${formatBytes(bytes)} of ${formatBytes(vm.ramBytes)}.`,
    );
    this.#step('writes were tracked');
  }

  /**
   * A disk may be read into pages that it has pinned before: those writes are noted nowhere. They are over when the VM
   * has been stopped, and all memory is read after that.
   */
  async #arm(): Promise<void> {
    const { vm, onDetail } = this.#options;
    const { tracker } = this.#tools.tracking;
    tracker.arm();
    if (vm.disks.length > 0) await this.#stopped(async () => undefined);
    const { kind, shortfall } = tracker;
    const why = shortfall === undefined ? '' : `, because ${shortfall}`;
    onDetail?.(`The VM is captured from outside; ${kind} tells what it writes meanwhile${why}.`);
    this.#step('writes are tracked');
  }

  /** Without the pages that were written since they were asked for: they will have to be read again in any case. */
  async #read(pages: PageRuns): Promise<void> {
    const { vm, onProgress, signal } = this.#options;
    const { reader, tracking, writer } = this.#tools;
    const onRead = (pageCount: number): void => {
      this.#readPages += pageCount;
      onProgress(this.#readPages * PAGE_BYTES, vm.ramBytes);
    };
    for (const group of groupsOf(pages, PAGES_PER_LOOK))
      await reader.read(without(group, tracking.tracker.look()), { store: writer, onRead, signal });
    await parkAt('streaming');
    this.#iterations++;
    this.#step(`pass ${this.#iterations}: ${countPages(pages)} pages looked at`);
  }

  /** What was written has to be copied in a pause: as long as it is too much, it is read while the VM runs once more. */
  async #readUntilItFits(runs: PageRuns): Promise<void> {
    const { onMessage, maxPauseMs } = this.#options;
    const { reader, tracking } = this.#tools;
    const { tracker } = tracking;
    let before = Infinity;
    let written = countPages(runs);
    for (let more = 0; ; more++) {
      const copyingMs = (written * PAGE_BYTES) / reader.bytesPerMs;
      if (copyingMs <= maxPauseMs * COPYING_SHARE && written * PAGE_BYTES <= MAX_COPIED_BYTES)
        return reader.prepareToKeep(written);
      if (more === MAX_MORE_PASSES || written > before * MIN_PROGRESS) {
        const amount = formatBytes(written * PAGE_BYTES);
        onMessage(
          `The guest writes faster than it is saved: the VM is paused for longer than ${maxPauseMs} ms, to copy ${amount}.`,
        );
        return;
      }
      before = written;
      const taken = await this.#stopped(async () => tracker.take());
      this.#noteDirty(taken);
      await this.#read(taken);
      written = countPages(tracker.look());
    }
  }

  async #takeInstant(): Promise<Taken> {
    const { instant, disks, qmp, signal } = this.#options;
    const { tracking, devices } = this.#tools;
    const { tracker } = tracking;
    signal.throwIfAborted();
    return this.#standstill.during(
      () => devices.take(),
      async ({ status, isOurs, answer }: Stopped<Buffer>): Promise<Taken> => {
        savedStateOf(status, qmp.version);
        const others = Promise.all([instant.capture(), disks.note()]);
        others.catch(() => undefined); // awaited below, unless something else fails before
        // Beside QEMU, which saves its devices meanwhile. What it writes to memory for that is told by the second look.
        const first = tracker.take();
        const keptFirst = await this.#keep(first);
        const savedDevices = await answer;
        const second = tracker.look();
        const kept = [keptFirst, await this.#keep(second)] as const;
        await others;
        await parkAt('paused');
        signal.throwIfAborted();
        return { status, isOurs, savedDevices, written: [first, second], kept };
      },
    );
  }

  /** In the pause: what is too much to be kept is stored at once. */
  async #keep(written: PageRuns): Promise<FilledSlab[]> {
    const { reader, writer } = this.#tools;
    if (countPages(written) * PAGE_BYTES <= MAX_COPIED_BYTES) return reader.keep(written);
    await reader.read(written, { store: writer, onRead: () => undefined, signal: this.#options.signal });
    return [];
  }

  #noteDirty(runs: PageRuns): void {
    for (const page of eachPage(without(runs, this.#writtenBefore))) this.#dirty.add(page);
  }

  /** Memory that was plugged in, or a block that has grown, is not in what was read. */
  async #refuseChangedBlocks(): Promise<void> {
    if (!(await this.#tools.tracking.isOfSameMemory())) throw memoryChanged();
  }

  #stopped<T>(act: () => Promise<T>): Promise<T> {
    this.#options.signal.throwIfAborted();
    return this.#standstill.during(async () => undefined, act);
  }
}
