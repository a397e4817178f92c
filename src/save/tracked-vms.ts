/**
 * The VMs whose writes are tracked between their saves (`save --track`). A process keeps each tracking
 * (src/capture/held-tracking.ts), and is found by its socket, `tracking/PID-STARTTICKS` in the runtime folder. Its note says
 * with which generation it began.
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { HeldTracking, type EndedHolder } from '../capture/held-tracking.js';
import { parseJson } from '../util/json-file.js';
import { isAlive, isStopped, type ProcessIdentity } from '../util/process-identity.js';
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
  /** `stopped`: the process that keeps it is, by a signal or a debugger. */
  readonly state: 'kept' | 'in use' | 'stopped';
  /** Undefined if it is not `kept`, or tells of no generation, because the last save has failed. */
  readonly note: TrackingNote | undefined;
}

/** The VMs that are tracked between their saves, as far as this user has begun that. */
export async function listTrackedVms(): Promise<TrackedVm[]> {
  const found = await Promise.all(sockets().map(lookAt));
  return found.filter((vm) => vm !== undefined);
}

/** What processes that were killed have left; the next save of the VM removes it. */
export function listTrackingLeftovers(): string[] {
  return sockets().filter((socketPath) => HeldTracking.holderAt(socketPath) === undefined);
}

function sockets(): string[] {
  return runtimeDirs()
    .map((root) => path.join(root, FOLDER))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((entry) => path.join(folder, entry)));
}

async function lookAt(socketPath: string): Promise<TrackedVm | undefined> {
  const { pid, startTicks } = identityOf(path.basename(socketPath));
  if (!isAlive({ pid, startTicks })) return undefined;
  try {
    const held = await HeldTracking.find(socketPath, { timeoutMs: LOOK_TIMEOUT_MS });
    held?.close();
    return held && { pid, holderPid: held.pid, state: 'kept', note: noteOf(held) };
  } catch {
    const holderPid = HeldTracking.holderAt(socketPath);
    if (holderPid === undefined) return undefined;
    return { pid, holderPid, state: isStopped(holderPid) ? 'stopped' : 'in use', note: undefined };
  }
}

/** Whether a process keeps its tracking, or has until it was killed. */
export function isTracked(vm: ProcessIdentity): boolean {
  return existsSync(findRuntimePath(FOLDER, entryOf(vm)));
}

/** @returns what was ended; undefined where nothing was tracked */
export async function endTracking(vm: ProcessIdentity): Promise<TrackedVm | undefined> {
  const { pid } = vm;
  const held = await findTracking(vm);
  if (held === undefined) return undefined;
  if (!(held instanceof HeldTracking))
    return { pid, holderPid: held.endedPid, state: 'stopped', note: undefined };
  await held.end();
  held.close();
  return { pid, holderPid: held.pid, state: 'kept', note: noteOf(held) };
}

/** For one who has the VM's lock: what is of no use to a save is ended, and removed. */
export function findTracking(vm: ProcessIdentity): Promise<HeldTracking | EndedHolder | undefined> {
  return HeldTracking.findOrEnd(findRuntimePath(FOLDER, entryOf(vm)));
}

/** `web@3`, for messages. */
export function labelOf({ note }: TrackedVm): string {
  return note === undefined ? 'no known generation' : `${note.name}@${note.generation}`;
}

export function noteOf(held: HeldTracking): TrackingNote | undefined {
  return parseJson(noteSchema, held.note);
}

/** Where the process is found that keeps it. The sockets of VMs that have ended go here. */
export function placeFor(vm: ProcessIdentity): string {
  const folder = ensureRuntimeDir(FOLDER);
  for (const entry of readdirSync(folder))
    if (!isAlive(identityOf(entry))) rmSync(path.join(folder, entry), { force: true });
  return path.join(folder, entryOf(vm));
}

function entryOf({ pid, startTicks }: ProcessIdentity): string {
  return `${pid}-${startTicks}`;
}

function identityOf(entry: string): ProcessIdentity {
  const [pid = NaN, startTicks = NaN] = entry.split('-').map(Number);
  return { pid, startTicks };
}
