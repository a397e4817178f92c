/**
 * The tracking of a VM's writes that a save goes by, and that may go on for the next one (tracked-vms.ts). If it goes on
 * since another generation than the newest one of the name, or of memory that lies elsewhere, it counts as none.
 */
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { HeldTracking, type EndedHolder } from '../capture/held-tracking.js';
import { openTracker, resumeWriteProtection } from '../capture/open-tracker.js';
import {
  areUnmoved,
  locateRamBlocks,
  regionsOf,
  type LocatedRamBlock,
  type RamBlockMap,
} from '../capture/ram-blocks.js';
import type { PageRuns, TrackerOptions, WriteTracker } from '../capture/tracker.js';
import { readManifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import type { QmpClient } from '../qemu/qmp.js';
import { leaveControlGroup } from '../util/leave-control-group.js';
import type { ProcessIdentity } from '../util/process-identity.js';
import { findTracking, noteOf, placeFor, type TrackingNote } from './tracked-vms.js';

/** The note of a tracking that a failed save has used up. */
const OF_NO_GENERATION = '';
const UNTRACKED = 'What the VM writes is not tracked from here on, and the next save reads all memory';

export interface SaveTrackingOptions {
  readonly qmp: QmpClient;
  readonly vm: ProcessIdentity;
  readonly how: Omit<TrackerOptions, 'pid' | 'regions'>;
  readonly storeDir: string;
  /** Of the newest generation of the name, unless everything is to be stored. */
  readonly formerDir: string | undefined;
  /** Undefined: it goes on if it does. */
  readonly goesOn: boolean | undefined;
  readonly onDetail?: ((text: string) => void) | undefined;
}

/** The generation since which it goes on. */
export interface Since {
  readonly id: string;
  /** As of when this save began. */
  readonly written: PageRuns;
}

/** What a save goes by: a tracking that goes on since the generation before, or one of its own. */
export class SaveTracking {
  readonly #options: SaveTrackingOptions;
  readonly #wasTracked: boolean;
  readonly #memory: RamBlockMap;
  #held: HeldTracking | undefined;
  #tracker: WriteTracker;
  #since: Since | undefined;

  private constructor(
    options: SaveTrackingOptions,
    { memory, held, tracker, inherited, written }: Partial<Resumed> & Pick<Resumed, 'tracker' | 'memory'>,
    wasTracked: boolean,
  ) {
    this.#options = options;
    this.#wasTracked = wasTracked;
    this.#memory = memory;
    this.#held = held;
    this.#tracker = tracker;
    if (inherited !== undefined && written !== undefined) this.#since = { id: inherited, written };
  }

  /** @throws as locateRamBlocks() and openTracker(), and FAILED when the process that keeps it has just ended */
  static async open(options: SaveTrackingOptions): Promise<SaveTracking> {
    const found = await findTracking(options.vm);
    const opened = (found && (await resume(found, options))) ?? (await begin(options));
    return new SaveTracking(options, opened, found !== undefined);
  }

  get blocks(): readonly LocatedRamBlock[] {
    return this.#memory.blocks;
  }

  get tracker(): WriteTracker {
    return this.#tracker;
  }

  /** Undefined where it has just begun. */
  get since(): Since | undefined {
    return this.#since;
  }

  /** Whether the next save may find it. */
  get goesOn(): boolean {
    const isWanted = this.#options.goesOn ?? this.#wasTracked;
    return isWanted && this.#tracker.userfaultfd !== undefined;
  }

  /** Begins it anew: the generation before is of no use. */
  async restart(): Promise<void> {
    await this.end();
    this.#tracker = await track(this.#options, this.#memory);
    this.#since = undefined;
  }

  /** Whether the VM's memory still is what it was when this was opened, of which `tracker` knows a part. */
  async isOfSameMemory(): Promise<boolean> {
    const { qmp, vm } = this.#options;
    if (this.#tracker.kind === 'write-protection') return areUnmoved(qmp, vm.pid, this.#memory);
    return isDeepStrictEqual(await locateRamBlocks(qmp, vm.pid), this.#memory);
  }

  /**
   * It goes on from that generation, which is the newest one now.
   * @returns the process that keeps it
   * @throws VmckptError FAILED, and it has ended
   */
  async keep(saved: Pick<TrackingNote, 'name' | 'generation' | 'id'>): Promise<number> {
    const { name, generation, id } = saved;
    const storeDir = path.resolve(this.#options.storeDir);
    const since = new Date().toISOString();
    const memory = { told: this.#memory.told, blocks: [...this.#memory.blocks] };
    return this.#hold(
      JSON.stringify({ storeDir, name, generation, id, since, memory } satisfies TrackingNote),
    );
  }

  /** As far as it has not been kept. */
  async end(): Promise<void> {
    await this.#held?.end();
    this.#letGo();
  }

  /** The save has failed, and has used it up: the next one reads all memory, and tracks the VM again if it was before. */
  async lose(onMessage: (text: string) => void): Promise<void> {
    try {
      if (this.goesOn && this.#wasTracked) await this.#hold(OF_NO_GENERATION);
      else await this.end();
    } catch (error) {
      if (!(error instanceof VmckptError)) throw error;
      onMessage(`${UNTRACKED}: ${error.message}.`);
    }
  }

  async #hold(note: string): Promise<number> {
    const { vm } = this.#options;
    const { userfaultfd } = this.#tracker;
    if (userfaultfd === undefined) throw new Error('nothing that could be kept');
    try {
      const isNew = this.#held === undefined;
      this.#held ??= HeldTracking.begin({ pid: vm.pid, userfaultfd, socketPath: placeFor(vm) });
      await this.#held.keep(note);
      // A service that saves regularly ends with all of its processes.
      if (isNew) await leaveControlGroup();
      return this.#held.pid;
    } finally {
      this.#letGo();
    }
  }

  #letGo(): void {
    this.#tracker.close();
    this.#held?.close();
    this.#held = undefined;
  }
}

interface Wishes {
  readonly track?: boolean | undefined;
  readonly onMessage: (text: string) => void;
  readonly onDetail?: ((text: string) => void) | undefined;
}

/** Says what becomes of it; the generation is there in any case. @param tracking undefined where it does not go on */
export async function keepTracking(
  tracking: SaveTracking | undefined,
  saved: Pick<TrackingNote, 'name' | 'generation' | 'id'>,
  { track, onMessage, onDetail }: Wishes,
): Promise<void> {
  if (tracking === undefined) {
    if (track === true)
      onMessage(`${UNTRACKED}: only the capture of a VM can begin that, on Linux 6.7 or newer.`);
    return;
  }
  try {
    const pid = await tracking.keep(saved);
    onDetail?.(
      `Process ${pid} keeps track of what the VM writes from here on; vmckpt save --untrack ends it.`,
    );
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    onMessage(`${UNTRACKED}: ${error.message}.`);
  }
}

interface Taken {
  readonly tracker: WriteTracker;
  readonly written: PageRuns;
}

interface Resumed extends Taken {
  readonly memory: RamBlockMap;
  readonly held: HeldTracking;
  readonly inherited: string;
}

/** Since which generation it goes on; what is of no use is ended, and the user told why. */
async function resume(
  held: HeldTracking | EndedHolder,
  options: SaveTrackingOptions,
): Promise<Resumed | undefined> {
  if (!(held instanceof HeldTracking)) {
    tellNoUse(held.endedPid, 'it was stopped, or did not answer', options);
    return undefined;
  }
  const note = noteOf(held);
  const why = whyOfNoUse(note, options);
  if (note !== undefined && why === undefined) {
    const taken = await take(held, note.memory, options);
    if (taken !== undefined) return { ...taken, memory: note.memory, held, inherited: note.id };
  }
  await held.end();
  held.close();
  tellNoUse(held.pid, why ?? 'its memory was changed', options);
  return undefined;
}

function tellNoUse(holderPid: number, why: string, { onDetail }: SaveTrackingOptions): void {
  onDetail?.(
    `Process ${holderPid} has kept track of what the VM has written, but ${why}: all memory is read.`,
  );
}

async function begin(options: SaveTrackingOptions): Promise<Pick<Resumed, 'memory' | 'tracker'>> {
  const memory = await locateRamBlocks(options.qmp, options.vm.pid);
  return { memory, tracker: await track(options, memory) };
}

function track({ vm, how }: SaveTrackingOptions, { blocks }: RamBlockMap): Promise<WriteTracker> {
  return openTracker({ ...how, pid: vm.pid, regions: regionsOf(blocks) });
}

function whyOfNoUse(
  note: TrackingNote | undefined,
  { storeDir, formerDir }: SaveTrackingOptions,
): string | undefined {
  if (note === undefined) return 'the last save failed';
  if (formerDir === undefined || idOf(formerDir) !== note.id) {
    const began = `${note.name}@${note.generation}${note.storeDir === path.resolve(storeDir) ? '' : ` in ${note.storeDir}`}`;
    return `since ${began}, which is not the generation before this one`;
  }
  return undefined;
}

/** Undefined if it cannot be read: the writer has the same trouble with it. */
function idOf(generationDir: string): string | undefined {
  try {
    return readManifest(generationDir).id;
  } catch (error) {
    if (error instanceof VmckptError) return undefined;
    throw error;
  }
}

/** Undefined if memory has come or gone, also if other memory lies at the same places by now. */
async function take(
  held: HeldTracking,
  memory: RamBlockMap,
  { qmp, vm: { pid }, how }: SaveTrackingOptions,
): Promise<Taken | undefined> {
  let tracker: WriteTracker | undefined;
  try {
    if (!(await areUnmoved(qmp, pid, memory))) return undefined;
    const regions = regionsOf(memory.blocks);
    tracker = resumeWriteProtection({ ...how, pid, regions }, await held.take());
    return { tracker, written: tracker.look() };
  } catch (error) {
    tracker?.close();
    if (error instanceof VmckptError && error.code === 'CAPTURE_REFUSED') return undefined;
    await held.end();
    held.close();
    throw error;
  }
}
