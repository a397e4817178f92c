/** The figures of a run of `vmckpt bench save`, by name, with how they are shown. */
import { formatBytes, formatMs } from '../../util/units.js';
import { spreadOf, type Spread } from '../measure.js';
import type { LoadName, SaveScenario } from './scenarios.js';
import type { SaveRun, SaveSummary } from './save-report.js';

export interface SaveFigure {
  readonly title: string;
  readonly format: (value: number) => string;
}

const number = (value: number) => value.toLocaleString('en', { maximumFractionDigits: 1 });

export const SAVE_FIGURES = {
  /** From the first command, or from the verb's first step, until all is fsynced. */
  totalMs: { title: 'saved and fsynced', format: formatMs },
  /** The time from the start of the verb's process to its end. */
  verbMs: { title: 'the whole command', format: formatMs },
  /** How long the VM stood still; in a series of captures the median. */
  pauseMs: { title: 'pause', format: formatMs },
  pauseMaxMs: { title: 'longest pause', format: formatMs },
  /** What the save has added on the disk. */
  storedBytes: { title: 'stored', format: formatBytes },
  /** The most that all processes of vmckpt had in memory at one time, mapped files apart. */
  processPeakBytes: { title: 'memory of vmckpt', format: formatBytes },
  captureCount: { title: 'captures', format: number },
  /** Captures that were due while the one before was still under way. */
  missedCaptures: { title: 'captures missed', format: number },
  getsPerS: { title: 'gets a second', format: number },
  getP99Ms: { title: 'get, 99th percentile', format: formatMs },
  longestGapMs: { title: 'longest gap between pings', format: formatMs },
  /** How far the guest's clock fell behind the host's. */
  clockLossMsPerMin: { title: "guest's clock falls behind, a minute", format: formatMs },
  hugePagesBeforeBytes: { title: 'huge pages before', format: formatBytes },
  hugePagesAfterBytes: { title: 'huge pages after', format: formatBytes },
  resumeMs: { title: 'runs', format: formatMs },
  firstAnswerMs: { title: 'first answer', format: formatMs },
  completeMs: { title: 'complete', format: formatMs },
} as const satisfies Record<string, SaveFigure>;
export type SaveFigureName = keyof typeof SAVE_FIGURES;
export type SaveFigures = Partial<Readonly<Record<SaveFigureName, number>>>;

export interface SavePlace {
  readonly scenario: SaveScenario;
  readonly load: LoadName;
  readonly ramMib: number;
}

export function isAt(place: SavePlace, found: Pick<SaveRun, 'scenario' | 'load' | 'ramMib'>): boolean {
  return place.scenario === found.scenario && place.load === found.load && place.ramMib === found.ramMib;
}

export function findSpread(
  summaries: readonly SaveSummary[],
  place: SavePlace,
  figure: SaveFigureName,
): Spread | undefined {
  return summaries.find((summary) => isAt(place, summary))?.figures[figure];
}

export function summarizeSaves(runs: readonly SaveRun[]): SaveSummary[] {
  const groups = new Map<string, SaveRun[]>();
  for (const run of runs) {
    const place = `${run.ramMib} ${run.load} ${run.scenario}`;
    groups.set(place, [...(groups.get(place) ?? []), run]);
  }
  return [...groups.values()].map((group) => {
    const { scenario, load, ramMib } = group[0]!;
    const figures = Object.keys(SAVE_FIGURES).flatMap((name) => {
      const spread = spreadOf(group.map((run) => run.figures[name]));
      return spread === undefined ? [] : [[name, spread] as const];
    });
    return { scenario, load, ramMib, figures: Object.fromEntries(figures) };
  });
}
