/** The figures of a run that are compared, by name, with medians and ranges over all repetitions. */
import type { CacheState } from './page-cache.js';
import { spreadOf, type Spread } from './measure.js';
import type { Run, Summary } from './resume-report.js';

export const FIGURES = {
  /** QEMU's spawn → its RESUME event. */
  resumeMs: (run) => run.resumeMs,
  /** QEMU's spawn → the last page in place. */
  completeMs: (run) => run.completeMs,
  /** From the order on, as the clients see it. */
  firstAnswerMs: ({ perceived }) => perceived.ping.firstAnswerMs,
  longestGapMs: ({ perceived }) => perceived.ping.longestGapMs,
  client90Ms: ({ perceived }) => perceived.memcached.backMs,
  http90Ms: ({ perceived }) => perceived.http.backMs,
  storageReadBytes: (run) => run.storageReadBytes,
  hotPackBytes: (run) => run.hotPackBytes,
  demandFaults: ({ transfer }) => transfer?.demandFaults,
  /** Faults on withheld pages are not counted. */
  missedFaults: ({ transfer }) => transfer && transfer.demandFaults - transfer.withheldFaults,
  /** The sum of the waits of all vCPUs for pages: from the kernel's event to the page in place. */
  vcpuBlockedMs: ({ transfer }) => transfer?.vcpuBlockedMs,
  faultP50Us: ({ transfer }) => faults(transfer)?.p50,
  faultP99Us: ({ transfer }) => faults(transfer)?.p99,
  prefetchPrecision: ({ transfer }) => precision(transfer),
  prefetchWasteShare: ({ transfer }) => {
    const used = precision(transfer);
    return used === undefined ? undefined : 1 - used;
  },
  processPeakBytes: ({ transfer }) => transfer?.processPeakBytes,
  verifiedPagesPerS: ({ later }) => later.verifiedPagesPerS,
  hugePageBytes: ({ later }) => later.hugePageBytes,
} as const satisfies Record<string, (run: Run) => number | null | undefined>;

export type FigureName = keyof typeof FIGURES;

export function summarize(runs: readonly Run[]): Summary[] {
  const groups = new Map<string, Run[]>();
  for (const run of runs.filter(({ round }) => round > 0)) {
    const place = `${run.ramMib} ${run.cache} ${run.scenario}`;
    groups.set(place, [...(groups.get(place) ?? []), run]);
  }
  return [...groups.values()].map((group) => {
    const { scenario, cache, ramMib } = group[0]!;
    const figures = Object.entries(FIGURES).flatMap(([name, of]) => {
      const spread = spreadOf(group.map(of));
      return spread === undefined ? [] : [[name, spread] as const];
    });
    return { scenario, cache, ramMib, figures: Object.fromEntries(figures) };
  });
}

export interface FigurePlace {
  readonly scenario: string;
  readonly cache: CacheState;
  readonly ramMib: number;
}

export function findFigure(
  summaries: readonly Summary[],
  place: FigurePlace,
  figure: FigureName,
): Spread | undefined {
  const { scenario, cache, ramMib } = place;
  return summaries.find(
    (summary) => summary.scenario === scenario && summary.cache === cache && summary.ramMib === ramMib,
  )?.figures[figure];
}

/** A run without faults has no figures of them. */
function faults(transfer: Run['transfer']) {
  return transfer === undefined || transfer.demandFaults === 0 ? undefined : transfer.faultUs;
}

function precision(transfer: Run['transfer']): number | undefined {
  return transfer?.prediction && transfer.prediction.usedPages / transfer.prediction.pages;
}
