/**
 * A running VM into a generation's folder, from outside: QEMU's process is read, and QEMU is asked for no more than its
 * devices. While its writes are tracked, all memory is read as the VM runs. Then the VM is paused for what was written
 * since: its devices, and the copying of these pages. They are stored when it runs again.
 */
import { DeviceCapture } from '../capture/device-capture.js';
import { mayReadDirectly } from '../capture/direct-reads.js';
import { PageReader, type FilledSlab } from '../capture/page-reader.js';
import { countPages, eachPage, groupsOf, rangeOf, without } from '../capture/page-runs.js';
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
/** So few are copied in less than a millisecond. */
const FEW_PAGES = 256;
/** What is copied while the VM runs, and stored when it has been paused; more is stored at once. */
const MAX_PAGES_COPIED_EARLY = 2048;
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
  readonly copied: readonly Copied[];
}

/** Pages that were written, as of one moment. */
interface Copied {
  readonly written: PageRuns;
  /** Of these, those that are not stored yet. */
  readonly kept: readonly FilledSlab[];
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
  /** While the VM ran; a page may stand in several. */
  readonly #early: Copied[] = [];
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
      await this.#readUntilLittleIsLeft(await this.#read(reader.allPages));
    } else {
      this.#noteTracked(since.written);
      await this.#readUntilLittleIsLeft(since.written);
    }
    const { status, isOurs, savedDevices, copied } = await this.#takeInstant();
    if (!goesOn) await tracking.end();
    this.#step('the VM runs again, what was written is copied');
    await this.#storeNewest([...this.#early, ...copied]);
    await this.#refuseChangedBlocks();
    refuseLostSleep(qmp);
    savedStateOf(status, qmp.version);
    const parts = streamParts({ machineName: vm.machineType, layout: reader.layout, savedDevices });
    const deviceState = withGlobalState(parts.deviceState, status);
    const stream = { ...parts, deviceState: isOurs ? asUnpaused(deviceState) : deviceState };
    for (const { written } of copied) this.#noteDirty(written);
    const result = {
      pauseMs: this.#pause.totalMs(),
      iterations: this.#iterations + 1,
      capture: {
        ...{ tracker: tracker.kind, tracked: since !== undefined, goesOn },
        copiedBytes: copied.reduce((sum, { written }) => sum + countPages(written), 0) * PAGE_BYTES,
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

  async #arm(): Promise<void> {
    const { onDetail } = this.#options;
    const { tracker } = this.#tools.tracking;
    tracker.arm();
    await this.#endDirectReads();
    const { kind, shortfall } = tracker;
    const why = shortfall === undefined ? '' : `, because ${shortfall}`;
    onDetail?.(`The VM is captured from outside; ${kind} tells what it writes meanwhile${why}.`);
    this.#step('writes are tracked');
  }

  /**
   * A disk may be read into pages that were pinned before: no tracking notices that. It is over when the VM has been
   * stopped, and what counts as unwritten is read after that.
   */
  async #endDirectReads(): Promise<void> {
    if (mayReadDirectly(this.#options.vm.pid)) await this.#stopped(async () => undefined);
  }

  /**
   * Without the pages that were written since they were asked for: they will have to be read again in any case.
   * @returns all that were written
   */
  async #read(pages: PageRuns): Promise<PageRuns> {
    const { vm, onProgress, signal } = this.#options;
    const { reader, tracking, writer } = this.#tools;
    const onRead = (pageCount: number): void => {
      this.#readPages += pageCount;
      onProgress(this.#readPages * PAGE_BYTES, vm.ramBytes);
    };
    const { tracker } = tracking;
    for (const group of groupsOf(pages, PAGES_PER_LOOK))
      await reader.read(without(group, tracker.look(rangeOf(group))), { store: writer, onRead, signal });
    await parkAt('streaming');
    this.#iterations++;
    this.#step(`pass ${this.#iterations}: ${countPages(pages)} pages looked at`);
    return tracker.look();
  }

  /** What was written has to be copied in a pause: as long as it is too much, it is read while the VM runs once more. */
  async #readUntilLittleIsLeft(runs: PageRuns): Promise<void> {
    const maxPages = this.#maxPagesLeft();
    let before = Infinity;
    let written = countPages(runs);
    for (let more = 0; written > maxPages; more++) {
      if (more === MAX_MORE_PASSES || written > before * MIN_PROGRESS) break;
      before = written;
      written = countPages(await this.#readEarly());
    }
    if (written > this.#maxPagesInPause()) this.#tellOfLongPause(written);
    else await this.#tools.reader.prepareToKeep(written);
  }

  /** Another pass is worth while for less where it takes no pause. */
  #maxPagesLeft(): number {
    const { tracker } = this.#tools.tracking;
    const takesPause = !tracker.takesAtOnce || mayReadDirectly(this.#options.vm.pid);
    const maxPages = this.#maxPagesInPause();
    return takesPause ? maxPages : Math.min(maxPages, FEW_PAGES);
  }

  #maxPagesInPause(): number {
    const copiedBytes = this.#options.maxPauseMs * COPYING_SHARE * this.#tools.reader.bytesPerMs;
    return Math.min(copiedBytes, MAX_COPIED_BYTES) / PAGE_BYTES;
  }

  #tellOfLongPause(pageCount: number): void {
    const { onMessage, maxPauseMs } = this.#options;
    const amount = formatBytes(pageCount * PAGE_BYTES);
    onMessage(
      `The guest writes faster than it is saved: the VM is paused for longer than ${maxPauseMs} ms, to copy ${amount}.`,
    );
  }

  /** What was written counts as unwritten from here on. @returns what was written since */
  async #readEarly(): Promise<PageRuns> {
    const { reader, tracking } = this.#tools;
    const { tracker } = tracking;
    const take = (): PageRuns => tracker.take();
    const written = tracker.takesAtOnce ? take() : await this.#stopped(async () => take());
    if (tracker.takesAtOnce) await this.#endDirectReads();
    this.#noteDirty(written);
    if (countPages(written) > MAX_PAGES_COPIED_EARLY) {
      this.#early.push({ written, kept: [] });
      return this.#read(written);
    }
    this.#early.push({ written, kept: await reader.keep(written) });
    this.#iterations++;
    return tracker.look();
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
        // Beside QEMU, which saves its devices. What it writes to memory for that is told by the second look.
        const before = await this.#copy(tracker.take());
        const savedDevices = await answer;
        const since = await this.#copy(tracker.lookForWrites());
        await others;
        await parkAt('paused');
        signal.throwIfAborted();
        return { status, isOurs, savedDevices, copied: [before, since] };
      },
    );
  }

  /** In the pause: what is too much to be kept is stored at once. */
  async #copy(written: PageRuns): Promise<Copied> {
    const { reader, writer } = this.#tools;
    if (countPages(written) * PAGE_BYTES <= MAX_COPIED_BYTES)
      return { written, kept: await reader.keep(written) };
    await reader.read(written, { store: writer, onRead: () => undefined, signal: this.#options.signal });
    return { written, kept: [] };
  }

  /** Of each page the newest version. @param copied the oldest first */
  async #storeNewest(copied: readonly Copied[]): Promise<void> {
    const { reader, writer } = this.#tools;
    const stored = new Set<number>();
    for (const { written, kept } of copied.toReversed()) {
      await reader.store(kept, writer, stored);
      for (const page of eachPage(written)) stored.add(page);
    }
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
