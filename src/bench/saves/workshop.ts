/** What all measurements of one guest have in common. */
import type { QemuVersion } from '../../qemu/qmp.js';
import type { Guest } from '../guest.js';
import type { MemcachedLoad } from '../workloads.js';
import type { SaveFigures } from './figures.js';
import type { Capture, SaveRun } from './save-report.js';
import type { LoadName, SaveScenario } from './scenarios.js';
import type { SaveVerb } from './verb.js';

export interface SaveWorkshop {
  /** It runs before and after each measurement. */
  readonly guest: Guest;
  readonly version: QemuVersion;
  readonly verb: SaveVerb;
  /** A folder on the disk that is measured. */
  readonly dataDir: string;
  readonly storeDir: string;
  readonly runtimeDir: string;
  /** What the guest's memcached holds. */
  readonly values: Omit<MemcachedLoad, 'port'>;
  /** How many saves a chain has. */
  readonly saves: number;
  readonly captureMs: number;
  readonly seed: number;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

export interface RoundPlace {
  readonly load: LoadName;
  readonly round: number;
}

interface Seen {
  readonly figures: SaveFigures;
  readonly captures?: Capture[];
  readonly getsEachS?: number[];
}

export function runOf(
  scenario: SaveScenario,
  { guest }: SaveWorkshop,
  { load, round }: RoundPlace,
  { figures, ...raw }: Seen,
): SaveRun {
  return { scenario, load, round, ramMib: guest.ramBytes / 2 ** 20, figures, ...raw };
}
