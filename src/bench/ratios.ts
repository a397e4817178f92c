/** The ratios by which vmckpt is judged. One whose scenarios were not measured is absent, with the reason. */
import { certaintyOf, type Certainty } from './confidence.js';
import { faultPathMedian } from './fault-path.js';
import { FIGURES, findFigure, type FigureName } from './figures.js';
import type { CacheState } from './page-cache.js';
import type { Absence, FaultPathSample, Run, Summary } from './resume-report.js';
import { SCENARIOS } from './scenarios.js';

interface Term {
  readonly scenario: string;
  readonly cache: CacheState;
  readonly figure: FigureName;
  /** The default size is 1 GiB if it was measured, otherwise the first one. */
  readonly ramMib?: number;
}

interface Ratio {
  readonly what: string;
  readonly goal?: { readonly atMost: number } | { readonly atLeast: number };
}

/** The first figure, divided by the second if there is one. */
interface Quotient extends Ratio {
  readonly of: Term;
  readonly against?: Term;
  /** Bytes; the time that the disk takes for them is subtracted from the first figure. */
  readonly lessReading?: Term;
}

/** The largest median anywhere. */
interface Maximum extends Ratio {
  readonly largest: FigureName;
}

/** A figure of the fault path, measured without a VM. */
interface Sampled extends Ratio {
  readonly stored: FaultPathSample['stored'];
  readonly sampled: (sample: FaultPathSample) => number | null;
}

const DEFAULT_RAM_MIB = 1024;

const warm = (scenario: string, figure: FigureName, ramMib?: number): Term =>
  term('warm', scenario, figure, ramMib);
const cold = (scenario: string, figure: FigureName, ramMib?: number): Term =>
  term('cold', scenario, figure, ramMib);

function term(cache: CacheState, scenario: string, figure: FigureName, ramMib?: number): Term {
  return { scenario, cache, figure, ...(ramMib !== undefined && { ramMib }) };
}

export const RATIOS: Readonly<Record<string, Quotient | Maximum | Sampled>> = {
  directRawCompleteVsFull: {
    what: 'all memory in place, lazy from raw pages, against a full restore',
    goal: { atMost: 0.3 },
    of: warm('lazy-raw', 'completeMs'),
    against: warm('qemu-full', 'completeMs'),
  },
  directRawCompleteVsStream: {
    what: 'the same against the stream with a sequential background',
    goal: { atMost: 0.5 },
    of: warm('lazy-raw', 'completeMs'),
    against: warm('stream-sequential', 'completeMs'),
  },
  directZstdCompleteVsFull: {
    what: 'all memory in place, lazy from compressed pages, against a full restore',
    goal: { atMost: 0.6 },
    of: warm('lazy', 'completeMs'),
    against: warm('qemu-full', 'completeMs'),
  },
  eagerRawVsMappedRam: {
    what: 'eager from raw pages runs, against mapped-ram',
    goal: { atMost: 1 },
    of: warm('eager-raw', 'resumeMs'),
    against: warm('qemu-mapped-ram', 'resumeMs'),
  },
  eagerZstdVsMappedRamCold: {
    what: 'eager from compressed pages runs, against mapped-ram, from the disk',
    goal: { atMost: 1 },
    of: cold('eager', 'resumeMs'),
    against: cold('qemu-mapped-ram', 'resumeMs'),
  },
  client90LearnedColdVsMappedRamCold1GiB: {
    what: 'clients at 90 % with a learned working set, against mapped-ram, 1 GiB',
    goal: { atMost: 0.7 },
    of: cold('learned', 'client90Ms', 1024),
    against: cold('qemu-mapped-ram', 'client90Ms', 1024),
  },
  client90LearnedColdVsMappedRamCold4GiB: {
    what: 'the same with 4 GiB',
    goal: { atMost: 0.25 },
    of: cold('learned', 'client90Ms', 4096),
    against: cold('qemu-mapped-ram', 'client90Ms', 4096),
  },
  resumeVsPrivateMap: {
    what: 'lazy runs, with nothing prefetched, against the private mapping',
    goal: { atMost: 1.5 },
    of: warm('lazy', 'resumeMs'),
    against: warm('private-map', 'resumeMs'),
  },
  resume4GiBVs1GiB: {
    what: 'lazy runs with 4 GiB, against itself with 1 GiB',
    goal: { atMost: 1.15 },
    of: warm('lazy', 'resumeMs', 4096),
    against: warm('lazy', 'resumeMs', 1024),
  },
  bulkVsBareUffdCopy: {
    what: 'one thread of the background, raw pages, against a bare loop of UFFDIO_COPY',
    goal: { atLeast: 0.8 },
    stored: 'raw',
    sampled: ({ bulkBytesPerS, bareBytesPerS }) => bareBytesPerS && bulkBytesPerS / bareBytesPerS,
  },
  faultP50RawUs: {
    what: 'fault on raw pages, nothing else going on, median',
    goal: { atMost: 10 },
    stored: 'raw',
    sampled: ({ idle }) => idle.p50Us,
  },
  faultP50ZstdUs: {
    what: 'fault on compressed pages, nothing else going on, median',
    goal: { atMost: 60 },
    stored: 'zstd',
    sampled: ({ idle }) => idle.p50Us,
  },
  faultP99LoadedVsIdle: {
    what: 'fault on compressed pages, 99th percentile, beside a busy background against none',
    goal: { atMost: 5 },
    stored: 'zstd',
    sampled: ({ loaded, idle }) => loaded.p99Us / idle.p99Us,
  },
  learnedDemandFaultShare: {
    what: 'demand faults left by a learned working set, withheld pages apart',
    goal: { atMost: 0.05 },
    of: cold('learned', 'missedFaults'),
    against: cold('lazy', 'demandFaults'),
  },
  vcpuBlockedLearnedColdVsLazyCold: {
    what: 'time that vCPUs wait for pages with a learned working set, against none',
    goal: { atMost: 0.1 },
    of: cold('learned', 'vcpuBlockedMs'),
    against: cold('lazy', 'vcpuBlockedMs'),
  },
  prefetchWasteShare: {
    what: 'prefetched and not used',
    goal: { atMost: 0.25 },
    of: cold('learned', 'prefetchWasteShare'),
  },
  client90LearnedColdVsLazyCold: {
    what: 'clients at 90 % with a learned working set, against none',
    goal: { atMost: 0.5 },
    of: cold('learned', 'client90Ms'),
    against: cold('lazy', 'client90Ms'),
  },
  client90LearnedColdVsPrivateMapWarm: {
    what: 'clients at 90 % with a learned working set, cold, less the time to read the hot pack, against a warm private mapping',
    goal: { atMost: 1.2 },
    of: cold('learned', 'client90Ms'),
    lessReading: cold('learned', 'hotPackBytes'),
    against: warm('private-map', 'client90Ms'),
  },
  maxRssBytes: {
    what: 'resident set of the processes that serve a VM, mapped files apart',
    goal: { atMost: 150e6 },
    largest: 'processPeakBytes',
  },
};

export interface Measured {
  readonly runs: readonly Run[];
  readonly summaries: readonly Summary[];
  readonly absences: readonly Absence[];
  readonly sizesMib: readonly number[];
  readonly faultPath: readonly FaultPathSample[];
  readonly diskReadBytesPerS: number;
}

export interface RatioValues {
  readonly ratios: Readonly<Record<string, number>>;
  readonly missing: Readonly<Record<string, string>>;
  /** How sure the median of the rounds' ratios is. Absent for a maximum, and with fewer than two rounds. */
  readonly certainties: Readonly<Record<string, Certainty>>;
}

export function computeRatios(measured: Measured): RatioValues {
  const results = Object.entries(RATIOS).map(([name, ratio]) => [name, valueOf(ratio, measured)] as const);
  return {
    ratios: Object.fromEntries(results.filter(([, value]) => typeof value === 'number')) as Record<
      string,
      number
    >,
    missing: Object.fromEntries(results.filter(([, value]) => typeof value === 'string')) as Record<
      string,
      string
    >,
    certainties: Object.fromEntries(
      Object.entries(RATIOS).flatMap(([name, ratio]) => {
        const certainty = certaintyOf(valuesByRound(ratio, measured));
        return certainty === undefined ? [] : [[name, certainty]];
      }),
    ),
  };
}

/** One ratio for each round. Changes of the machine between rounds do not affect it. */
function valuesByRound(ratio: Quotient | Maximum | Sampled, measured: Measured): (number | undefined)[] {
  if ('largest' in ratio) return [];
  if ('sampled' in ratio)
    return measured.faultPath
      .filter(({ stored }) => stored === ratio.stored)
      .map((sample) => ratio.sampled(sample) ?? undefined);
  const rounds = [...new Set(measured.runs.map(({ round }) => round))].filter((round) => round > 0);
  return rounds.map((round) => {
    const figureOf = (term: Term) => figureInRound(term, round, measured);
    const of = figureOf(ratio.of);
    const against = ratio.against === undefined ? 1 : figureOf(ratio.against);
    const readBytes = ratio.lessReading === undefined ? 0 : figureOf(ratio.lessReading);
    if (of === undefined || readBytes === undefined || !against) return undefined;
    return (of - (readBytes * 1000) / measured.diskReadBytesPerS) / against;
  });
}

function figureInRound({ figure, ...term }: Term, round: number, measured: Measured): number | undefined {
  const { scenario, cache, ramMib } = placeOf(term, measured);
  const found = measured.runs.find(
    (run) => run.round === round && run.scenario === scenario && run.cache === cache && run.ramMib === ramMib,
  );
  return (found && FIGURES[figure](found)) ?? undefined;
}

function placeOf<T extends Omit<Term, 'figure'>>(term: T, { sizesMib }: Measured): T & { ramMib: number } {
  const defaultMib = sizesMib.includes(DEFAULT_RAM_MIB) ? DEFAULT_RAM_MIB : sizesMib[0]!;
  return { ...term, ramMib: term.ramMib ?? defaultMib };
}

/** The value, or the reason why there is none. */
function valueOf(ratio: Quotient | Maximum | Sampled, measured: Measured): number | string {
  if ('sampled' in ratio)
    return (
      faultPathMedian(measured.faultPath, ratio.stored, ratio.sampled) ??
      `the fault path was not measured with ${ratio.stored} pages`
    );
  if ('largest' in ratio) {
    const medians = measured.summaries.flatMap(({ figures }) => figures[ratio.largest]?.median ?? []);
    return medians.length === 0 ? 'no restore by vmckpt was measured' : Math.max(...medians);
  }
  const of = medianOf(ratio.of, measured);
  if (typeof of === 'string' || ratio.against === undefined) return of;
  const against = medianOf(ratio.against, measured);
  if (typeof against === 'string') return against;
  if (against === 0) return `${ratio.against.figure} of ${ratio.against.scenario} is 0`;
  const readBytes = ratio.lessReading === undefined ? 0 : medianOf(ratio.lessReading, measured);
  if (typeof readBytes === 'string') return readBytes;
  return (of - (readBytes * 1000) / measured.diskReadBytesPerS) / against;
}

function medianOf({ figure, ...term }: Term, measured: Measured): number | string {
  const { summaries, absences } = measured;
  const place = placeOf(term, measured);
  const found = findFigure(summaries, place, figure);
  if (found !== undefined) return found.median;
  const { scenario, cache, ramMib } = place;
  if (!SCENARIOS.some(({ name }) => name === scenario)) return `there is no scenario "${scenario}" yet`;
  const absence = absences.find(
    (each) =>
      each.scenario === scenario && each.ramMib === ramMib && (each.cache === null || each.cache === cache),
  );
  return (
    absence?.reason ?? `${figure} of "${scenario}" with ${ramMib} MiB and a ${cache} cache was not measured`
  );
}
