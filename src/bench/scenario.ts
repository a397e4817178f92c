/**
 * One way of bringing the guest back. A new one is one more object in scenarios.ts: what it loads, and how it
 * starts. Everything else, the cache, the clients, the figures, is the same for all.
 */
import type { QemuVersion } from '../qemu/qmp.js';
import type { RestoreOptions } from '../restore/attempt.js';
import type { RestoreReport } from '../restore/report.js';
import type { ArtefactName } from './artefact.js';
import type { Guest } from './guest.js';

/** The saved guest, as a scenario needs it. */
export interface SavedGuest {
  readonly guest: Guest;
  readonly version: QemuVersion;
  readonly storeDir: string;
  /** Of this build, or of another one that is measured beside it. */
  readonly restore: (options: RestoreOptions) => Promise<RestoreReport>;
  /** What the scenario's artefact consists of: dropped from the page cache when it is to be cold. */
  readonly files: readonly string[];
  readonly signal: AbortSignal;
}

/** A guest that runs again. Instants are the wall clock in ms. */
export interface Restored {
  readonly qemuPid: number;
  /** When the restore was asked for. */
  readonly orderedAtMs: number;
  readonly spawnedAtMs: number;
  /** By QEMU's RESUME event. */
  readonly resumedAtMs: number;
  /** When the last page was in place; null when memory stays in a file. */
  readonly completeAtMs: number | null;
  /** What vmckpt says of its own restore. */
  readonly report?: RestoreReport;
}

export interface Scenario {
  readonly name: string;
  /** For people: stands beside its figures. */
  readonly title: string;
  readonly artefact: ArtefactName;
  /** Restores before the first that is measured, with clients at work: what they touch is learned. */
  readonly training?: readonly Scenario['restore'][];
  /** Returns when all memory is in place, or no more will come. */
  readonly restore: (saved: SavedGuest) => Promise<Restored>;
}
