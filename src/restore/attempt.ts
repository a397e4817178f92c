/** What a restore is asked for, and what its ways have in common: through a serving process, or by mapping a file. */
import type { Manifest } from '../checkpoint/manifest.js';
import type { LaunchPlan, LaunchWishes } from '../launch/launch-plan.js';
import { killAtOnce } from '../vms/processes.js';
import type { RoomWish } from '../qemu/memory-room.js';
import type { LaunchedQemu } from '../qemu/launch.js';
import type { Background } from '../serving-protocol/order.js';
import type { Generation } from '../store/store.js';
import type { NameClaim } from '../vms/claim.js';
import type { VmFolder } from '../vms/folder.js';
import type { RestoreMode, VmRecord } from '../vms/records.js';
import type { PrefetchWishes } from '../working-set/plan.js';
import type { DiskWishes } from './untouched-disks.js';
import type { PathWish } from './memory-path.js';

export interface RestoreOptions extends LaunchWishes, DiskWishes {
  readonly storeDir: string;
  /** NAME or NAME@GENERATION. */
  readonly reference: string;
  /** How the VM is called: like its checkpoint by default. */
  readonly vmName?: string | undefined;
  /** `prefetch` is lazy, with what is probably touched first sent first. */
  readonly mode: RestoreMode;
  /** Where memory cannot come on demand, restore eagerly instead. */
  readonly mayFallBack?: boolean;
  readonly prefetch: PrefetchWishes;
  readonly path: PathWish;
  /** `at-once` by default. */
  readonly background?: Background;
  /** Every page is asked for by itself, as far as that can be had: slower, and tells what is touched. */
  readonly exactly?: boolean;
  /** `required` by default. */
  readonly memoryRoom?: RoomWish;
  /** Return when the VM runs, not when its memory is complete. */
  readonly detach: boolean;
  /** Begins when the VM runs, and the restore waits for its end; a background that waits to be told begins then. */
  readonly exercise?: () => Promise<void>;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

/** A restore under way, from the claimed name on. */
export interface Attempt {
  readonly options: RestoreOptions;
  readonly located: Generation;
  readonly manifest: Manifest;
  readonly folder: VmFolder;
  /** To be released when the VM is on record. */
  readonly claim: NameClaim;
  readonly verbStartMs: number;
  /** The VM runs, or is loaded and stays paused: from here on it is left alone, whatever fails. */
  readonly onLoaded: () => void;
}

/** One that has been planned, and is ready to be started. */
export interface PlannedAttempt extends Attempt {
  readonly plan: LaunchPlan;
  readonly record: VmRecord;
}

/** Ends the QEMU that a failed attempt has started; the checkpoint is as it was. */
export async function undo(qemu: LaunchedQemu): Promise<void> {
  killAtOnce(qemu.pid);
  await qemu.exited;
}
