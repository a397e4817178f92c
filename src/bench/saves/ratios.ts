/** The ratios by which saves are judged, as data. A ratio is absent, with the reason, if its runs were not measured. */
import { certaintyOf, type Certainty } from '../confidence.js';
import { findSpread, isAt, type SaveFigureName, type SavePlace } from './figures.js';
import type { SaveAbsence, SaveRun, SaveSummary } from './save-report.js';
import type { LoadName, SaveScenario } from './scenarios.js';

interface Term extends Omit<SavePlace, 'ramMib'> {
  readonly figure: SaveFigureName;
  /** The default size is 1 GiB if it was measured, otherwise the first one. */
  readonly ramMib?: number;
}

/** The first figure, divided by the second if there is one. */
interface SaveRatio {
  readonly what: string;
  readonly goal: { readonly atMost: number } | { readonly atLeast: number };
  readonly of: Term;
  readonly against?: Term;
}

const DEFAULT_RAM_MIB = 1024;

const term =
  (load: LoadName) =>
  (scenario: SaveScenario, figure: SaveFigureName, ramMib?: number): Term => ({
    scenario,
    load,
    figure,
    ...(ramMib !== undefined && { ramMib }),
  });
const rest = term('rest');
const steady = term('steady');

export const SAVE_RATIOS: Readonly<Record<string, SaveRatio>> = {
  firstSaveVsStock: {
    what: "first save of a running guest, against QEMU's background snapshot to a file",
    goal: { atMost: 0.9 },
    of: rest('vmckpt-first', 'totalMs', 1024),
    against: rest('qemu-background-snapshot', 'totalMs', 1024),
  },
  nextSaveVsStock1GiB: {
    what: 'last save of a tracked chain, 1 GiB, against the same',
    goal: { atMost: 0.15 },
    of: rest('vmckpt-tracked-last', 'totalMs', 1024),
    against: rest('qemu-background-snapshot', 'totalMs', 1024),
  },
  nextSaveVsStock4GiB: {
    what: 'the same with 4 GiB',
    goal: { atMost: 0.08 },
    of: rest('vmckpt-tracked-last', 'totalMs', 4096),
    against: rest('qemu-background-snapshot', 'totalMs', 4096),
  },
  nextUntrackedSaveVsStock: {
    what: 'next save with nothing tracked, against the same',
    goal: { atMost: 0.5 },
    of: rest('vmckpt-next', 'totalMs', 1024),
    against: rest('qemu-background-snapshot', 'totalMs', 1024),
  },
  nextStoredShare: {
    what: 'bytes that the second save adds on the disk, against the first',
    goal: { atMost: 0.03 },
    of: rest('vmckpt-next', 'storedBytes'),
    against: rest('vmckpt-first', 'storedBytes'),
  },
  pauseVsStock: {
    what: "pause of a capture every second, 4 GiB, against that of QEMU's background snapshot",
    goal: { atMost: 0.25 },
    of: steady('every-1s', 'pauseMs', 4096),
    against: steady('qemu-background-snapshot', 'pauseMs', 4096),
  },
  pause4GiBVs1GiB: {
    what: 'pause of a capture every second, 4 GiB, against 1 GiB',
    goal: { atMost: 1.2 },
    of: steady('every-1s', 'pauseMs', 4096),
    against: steady('every-1s', 'pauseMs', 1024),
  },
  guestThroughputEverySecond: {
    what: 'gets a second beside a capture every second, against none',
    goal: { atLeast: 0.9 },
    of: steady('every-1s', 'getsPerS'),
    against: steady('undisturbed', 'getsPerS'),
  },
  guestThroughputEvery10s: {
    what: 'gets a second beside a capture every 10 s, against none',
    goal: { atLeast: 0.98 },
    of: steady('every-10s', 'getsPerS'),
    against: steady('undisturbed', 'getsPerS'),
  },
  chainVsFullRestoreRuns: {
    what: 'restore of the last save of a chain, against a first save: runs',
    goal: { atMost: 1.1 },
    of: rest('restore-chain', 'resumeMs'),
    against: rest('restore-full', 'resumeMs'),
  },
  chainVsFullRestoreFirstAnswer: {
    what: 'the same: first answer to a client',
    goal: { atMost: 1.1 },
    of: rest('restore-chain', 'firstAnswerMs'),
    against: rest('restore-full', 'firstAnswerMs'),
  },
  chainVsFullRestoreComplete: {
    what: 'the same: all memory in place',
    goal: { atMost: 1.1 },
    of: rest('restore-chain', 'completeMs'),
    against: rest('restore-full', 'completeMs'),
  },
  maxRssBytes: {
    what: 'resident set of the processes of a first save, 4 GiB, mapped files apart',
    goal: { atMost: 200e6 },
    of: rest('vmckpt-first', 'processPeakBytes', 4096),
  },
};

export interface SavesMeasured {
  readonly runs: readonly SaveRun[];
  readonly summaries: readonly SaveSummary[];
  readonly absences: readonly SaveAbsence[];
  readonly sizesMib: readonly number[];
}

export interface SaveRatioValues {
  readonly ratios: Readonly<Record<string, number>>;
  readonly certainties: Readonly<Record<string, Certainty>>;
  readonly missing: Readonly<Record<string, string>>;
}

export function computeSaveRatios(measured: SavesMeasured): SaveRatioValues {
  const ratios: Record<string, number> = {};
  const certainties: Record<string, Certainty> = {};
  const missing: Record<string, string> = {};
  for (const [name, ratio] of Object.entries(SAVE_RATIOS)) {
    const value = quotientOf(ratio, measured);
    if (typeof value === 'string') missing[name] = value;
    else ratios[name] = value;
    const certainty = certaintyOf(valuesByRound(ratio, measured));
    if (certainty !== undefined) certainties[name] = certainty;
  }
  return { ratios, certainties, missing };
}

/** The ratio of the medians, or the reason why there is none. */
function quotientOf({ of, against }: SaveRatio, measured: SavesMeasured): number | string {
  const value = medianOf(of, measured);
  if (typeof value === 'string' || against === undefined) return value;
  const other = medianOf(against, measured);
  if (typeof other === 'string') return other;
  return other === 0 ? `${against.figure} of ${against.scenario} is 0` : value / other;
}

function medianOf({ figure, ...term }: Term, measured: SavesMeasured): number | string {
  const place = placeOf(term, measured);
  const found = findSpread(measured.summaries, place, figure);
  if (found !== undefined) return found.median;
  const absence = measured.absences.find((each) => isAt(place, each));
  const { scenario, load, ramMib } = place;
  return absence?.reason ?? `${figure} of "${scenario}" with ${ramMib} MiB, guest ${load}, was not measured`;
}

/** One ratio for each round. Changes of the machine between rounds do not affect it. */
function valuesByRound({ of, against }: SaveRatio, measured: SavesMeasured): (number | undefined)[] {
  const rounds = [...new Set(measured.runs.map(({ round }) => round))];
  return rounds.map((round) => {
    const value = inRound(of, round, measured);
    if (against === undefined) return value;
    const other = inRound(against, round, measured);
    return value === undefined || !other ? undefined : value / other;
  });
}

function inRound({ figure, ...term }: Term, round: number, measured: SavesMeasured): number | undefined {
  const place = placeOf(term, measured);
  return measured.runs.find((run) => run.round === round && isAt(place, run))?.figures[figure];
}

function placeOf(term: Omit<Term, 'figure'>, { sizesMib }: SavesMeasured): SavePlace {
  const defaultMib = sizesMib.includes(DEFAULT_RAM_MIB) ? DEFAULT_RAM_MIB : sizesMib[0]!;
  return { ...term, ramMib: term.ramMib ?? defaultMib };
}
