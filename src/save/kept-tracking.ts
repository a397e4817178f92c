/**
 * The write tracking of a VM that goes on between its saves (`save --track`): a process keeps it, and can be found by its
 * socket, `tracking/PID-STARTTICKS` in the runtime folder. Its note says with which generation it began: a save of
 * another one, or of memory that lies elsewhere, counts it as none.
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import * as v from 'valibot';
import { HeldTracking } from '../capture/held-tracking.js';
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
import { parseJson } from '../util/json-file.js';
import { leaveControlGroup } from '../util/leave-control-group.js';
import { isAlive, type ProcessIdentity } from '../util/process-identity.js';
import { ensureRuntimeDir, findRuntimePath, runtimeDirs } from '../util/runtime-dir.js';
import { integer } from '../util/schema.js';

const FOLDER = 'tracking';
/** For one who only wants to know: a save may have it. */
const LOOK_TIMEOUT_MS = 1_000;

const noteSchema = v.object({
  storeDir: v.string(),
  name: v.string(),
  generation: integer,
  /** The generation's. */
  id: v.string(),
  /** When that was saved: ISO 8601. */
  since: v.string(),
  /** Where its memory lay. */
  memory: v.object({
    told: v.string(),
    blocks: v.array(v.object({ name: v.string(), usedBytes: integer, hostAddress: integer })),
  }),
});
export type TrackingNote = v.InferOutput<typeof noteSchema>;

export interface TrackedVm {
  /** Of QEMU. */
  readonly pid: number;
  readonly holderPid: number;
  /** Undefined while a save has it. */
  readonly note: TrackingNote | undefined;
}

/** The VMs that are tracked between their saves, as far as this user has begun that. */
export async function listTrackedVms(): Promise<TrackedVm[]> {
  const sockets = runtimeDirs()
    .map((root) => path.join(root, FOLDER))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((entry) => path.join(folder, entry)));
  const found = await Promise.all(sockets.map(lookAt));
  return found.filter((vm) => vm !== undefined);
}

async function lookAt(socketPath: string): Promise<TrackedVm | undefined> {
  const { pid, startTicks } = identityOf(path.basename(socketPath));
  if (!isAlive({ pid, startTicks })) return undefined;
  try {
    const held = await HeldTracking.find(socketPath, { timeoutMs: LOOK_TIMEOUT_MS });
    held?.close();
    return held && { pid, holderPid: held.pid, note: noteOf(held) };
  } catch {
    const holderPid = HeldTracking.holderAt(socketPath);
    return holderPid === undefined ? undefined : { pid, holderPid, note: undefined };
  }
}

/** @returns what was ended; undefined where nothing was tracked */
export async function endTracking(vm: ProcessIdentity): Promise<TrackedVm | undefined> {
  const held = await HeldTracking.findOrEnd(socketOf(vm));
  if (held === undefined) return undefined;
  await held.end();
  held.close();
  return { pid: vm.pid, holderPid: held.pid, note: noteOf(held) };
}

/** `web@3`, for messages. */
export function labelOf({ note }: TrackedVm): string {
  return note === undefined ? 'a save that has not ended' : `${note.name}@${note.generation}`;
}

function noteOf(held: HeldTracking): TrackingNote | undefined {
  return parseJson(noteSchema, held.note);
}

function socketOf({ pid, startTicks }: ProcessIdentity): string {
  return findRuntimePath(FOLDER, `${pid}-${startTicks}`);
}

/** A process that was killed has left its socket: those of VMs that have ended go here. */
function placeFor({ pid, startTicks }: ProcessIdentity): string {
  const folder = ensureRuntimeDir(FOLDER);
  for (const entry of readdirSync(folder))
    if (!isAlive(identityOf(entry))) rmSync(path.join(folder, entry), { force: true });
  return path.join(folder, `${pid}-${startTicks}`);
}

function identityOf(entry: string): ProcessIdentity {
  const [pid = NaN, startTicks = NaN] = entry.split('-').map(Number);
  return { pid, startTicks };
}

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
  readonly #isWanted: boolean;
  readonly #memory: RamBlockMap;
  #held: HeldTracking | undefined;
  #tracker: WriteTracker;
  #since: Since | undefined;

  private constructor(
    options: SaveTrackingOptions,
    { memory, held, tracker, inherited, written }: Partial<Resumed> & Pick<Resumed, 'tracker' | 'memory'>,
    isWanted: boolean,
  ) {
    this.#options = options;
    this.#isWanted = isWanted;
    this.#memory = memory;
    this.#held = held;
    this.#tracker = tracker;
    if (inherited !== undefined && written !== undefined) this.#since = { id: inherited, written };
  }

  /** @throws as locateRamBlocks() and openTracker(), and FAILED when the process that keeps it has just ended */
  static async open(options: SaveTrackingOptions): Promise<SaveTracking> {
    const held = await HeldTracking.findOrEnd(socketOf(options.vm));
    const opened = (held && (await resume(held, options))) ?? (await begin(options));
    return new SaveTracking(options, opened, options.goesOn ?? held !== undefined);
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
    return this.#isWanted && this.#tracker.userfaultfd !== undefined;
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
    const { vm, storeDir } = this.#options;
    const { userfaultfd } = this.#tracker;
    if (userfaultfd === undefined) throw new Error('nothing that could be kept');
    const { name, generation, id } = saved;
    const since = new Date().toISOString();
    const memory = { told: this.#memory.told, blocks: [...this.#memory.blocks] };
    const note = { storeDir: path.resolve(storeDir), name, generation, id, since, memory };
    try {
      const isNew = this.#held === undefined;
      this.#held ??= HeldTracking.begin({ pid: vm.pid, userfaultfd, socketPath: placeFor(vm) });
      await this.#held.keep(JSON.stringify(note satisfies TrackingNote));
      // A service that saves regularly ends with all of its processes.
      if (isNew) await leaveControlGroup();
      return this.#held.pid;
    } finally {
      this.#letGo();
    }
  }

  /** As far as it has not been kept. */
  async end(): Promise<void> {
    await this.#held?.end();
    this.#letGo();
  }

  /** The save has failed, and a save that has the tracking uses it up. */
  async lose(onMessage: (text: string) => void): Promise<void> {
    const { goesOn } = this;
    await this.end();
    if (goesOn)
      onMessage(
        'What the VM writes is no longer tracked: the next save reads all memory, and only --track begins it again.',
      );
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
  const untracked = 'What the VM writes is not tracked from here on, and the next save reads all memory';
  if (tracking === undefined) {
    if (track === true)
      onMessage(`${untracked}: only the capture of a VM can begin that, on Linux 6.7 or newer.`);
    return;
  }
  try {
    const pid = await tracking.keep(saved);
    onDetail?.(
      `Process ${pid} keeps track of what the VM writes from here on; vmckpt save --untrack ends it.`,
    );
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    onMessage(`${untracked}: ${error.message}.`);
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
async function resume(held: HeldTracking, options: SaveTrackingOptions): Promise<Resumed | undefined> {
  const note = noteOf(held);
  const why = whyOfNoUse(note, options);
  if (note !== undefined && why === undefined) {
    const taken = await take(held, note.memory, options);
    if (taken !== undefined) return { ...taken, memory: note.memory, held, inherited: note.id };
  }
  await held.end();
  held.close();
  options.onDetail?.(
    `Process ${held.pid} has kept track of what the VM has written, but ${why ?? 'its memory was changed'}: all memory is read.`,
  );
  return undefined;
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
  if (note === undefined) return 'nobody knows since when';
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
