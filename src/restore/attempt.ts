/** What a restore is asked to do, and what both of its ways share: through a serving process, or by mapping a file. */
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
import type { RemoteSource } from './find-generation.js';
import type { DiskWishes } from './untouched-disks.js';
import type { PathWish } from './memory-path.js';

export interface RestoreOptions extends LaunchWishes, DiskWishes {
  /** Not used for a generation that is elsewhere. */
  readonly storeDir: string;
  /** Where the generation is, if not in a store on this host. */
  readonly remote?: RemoteSource | undefined;
  /** NAME or NAME@GENERATION. */
  readonly reference: string;
  /** The VM's name; by default that of its checkpoint. */
  readonly vmName?: string | undefined;
  /** `prefetch` is lazy, but sends first what the guest will probably touch. */
  readonly mode: RestoreMode;
  /** Restores eagerly where memory cannot come on demand. */
  readonly mayFallBack?: boolean;
  readonly prefetch: PrefetchWishes;
  readonly path: PathWish;
  /** Default: `at-once`. */
  readonly background?: Background;
  /** Every page is requested by itself, as far as possible: slower, but it shows what is touched. */
  readonly exactly?: boolean;
  /** Default: `required`. */
  readonly memoryRoom?: RoomWish;
  /** Returns when the VM runs, not when its memory is complete. */
  readonly detach: boolean;
  /** Starts when the VM runs; the restore waits for its end. A background that waits for an order starts then. */
  readonly exercise?: () => Promise<void>;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

/** A restore under way, from the moment its name is claimed. */
export interface Attempt {
  readonly options: RestoreOptions;
  readonly located: Generation;
  readonly manifest: Manifest;
  readonly folder: VmFolder;
  /** Released when the VM is on record. */
  readonly claim: NameClaim;
  readonly verbStartMs: number;
  /** Called when the VM runs, or is loaded and stays paused. From here on no failure touches it. */
  readonly onLoaded: () => void;
}

/** An attempt that is planned and ready to start. */
export interface PlannedAttempt extends Attempt {
  readonly plan: LaunchPlan;
  readonly record: VmRecord;
}

/** Ends the QEMU that a failed attempt has started. The checkpoint is unchanged. */
export async function undo(qemu: LaunchedQemu): Promise<void> {
  killAtOnce(qemu.pid);
  await qemu.exited;
}
