/** The charts of one size and cache state. One scenario has one colour everywhere. */
import { formatBytes, formatMs } from '../../util/units.js';
import { findFigure, type FigureName } from '../figures.js';
import type { CacheState } from '../page-cache.js';
import type { ResumeReport, Run } from '../resume-report.js';
import { SCENARIOS } from '../scenarios.js';
import { colorAt } from './html.js';
import { barChart, lineChart, type Axis, type Series } from './svg.js';

/** How long around the resume latencies are drawn, and in what steps: the worst answer of each. */
const LATENCY_STEP_MS = 50;
/** How much is drawn after the last resume. */
const AFTER_MS = 1_000;

interface FigureBars {
  readonly figure: FigureName;
  readonly title: string;
  readonly format: (value: number) => string;
}

const BARS: readonly FigureBars[] = [
  { figure: 'resumeMs', title: 'The VM runs (from the start of QEMU)', format: formatMs },
  { figure: 'firstAnswerMs', title: 'First answer to a client (from the order on)', format: formatMs },
  { figure: 'client90Ms', title: 'memcached at 90 % of its throughput', format: formatMs },
  { figure: 'completeMs', title: 'All memory in place (from the start of QEMU)', format: formatMs },
  { figure: 'storageReadBytes', title: 'Read from the disk', format: formatBytes },
  { figure: 'prefetchPrecision', title: 'Precision: prefetched pages that were used', format: formatPercent },
  {
    figure: 'prefetchWasteShare',
    title: 'Waste: prefetched pages that were not touched within 10 s',
    format: formatPercent,
  },
  {
    figure: 'verifiedPagesPerS',
    title: 'Speed at the end: pages that the guest checks a second',
    format: formatCount,
  },
  { figure: 'hugePageBytes', title: 'Memory in huge pages at the end', format: formatBytes },
];

export interface Place {
  readonly ramMib: number;
  readonly cache: CacheState;
}

export function chartsOf(report: ResumeReport, place: Place): string[] {
  const runs = typicalRuns(report, place);
  return [
    ...BARS.flatMap((chart) => bars(report, place, chart)),
    latencyChart(runs),
    residentChart(runs),
    faultChart(runs),
  ];
}

export function colorOf(scenario: string): string {
  return colorAt(SCENARIOS.findIndex(({ name }) => name === scenario));
}

export function titleOf(scenario: string): string {
  return SCENARIOS.find(({ name }) => name === scenario)?.title ?? scenario;
}

/** Returns no chart if no scenario has the figure. */
function bars(
  { summaries, options }: ResumeReport,
  place: Place,
  { figure, title, format }: FigureBars,
): string[] {
  const all = options.scenarios.map((scenario) => ({
    label: titleOf(scenario),
    color: colorOf(scenario),
    value: findFigure(summaries, { ...place, scenario }, figure),
  }));
  return all.some(({ value }) => value !== undefined) ? [barChart({ title, format, bars: all })] : [];
}

/** For each scenario, the run with the median time until the VM ran. */
function typicalRuns({ runs, options }: ResumeReport, { ramMib, cache }: Place): Run[] {
  return options.scenarios.flatMap((scenario) => {
    const own = runs
      .filter(
        (run) => run.scenario === scenario && run.ramMib === ramMib && run.cache === cache && run.round > 0,
      )
      .sort((a, b) => a.resumeMs - b.resumeMs);
    return own.slice((own.length - 1) >> 1, ((own.length - 1) >> 1) + 1);
  });
}

const sinceOrder: Axis = { label: 'ms since the restore was ordered', scale: 'linear', format: plain };

/** The chart ends soon after the last VM runs, because the rest of the observation is much the same for all. */
function drawnUntilMs(runs: readonly Run[]): number {
  const times = runs.map(
    ({ orderedToSpawnMs, resumeMs, completeMs }) => orderedToSpawnMs + Math.max(resumeMs, completeMs ?? 0),
  );
  return Math.max(0, ...times) + AFTER_MS;
}

function latencyChart(runs: readonly Run[]): string {
  const untilMs = drawnUntilMs(runs);
  return lineChart({
    title: `Latency of a ping (the worst of each ${LATENCY_STEP_MS} ms; a line begins with the first answer)`,
    x: sinceOrder,
    y: { label: 'ms', scale: 'log', format: plain },
    series: runs.map((run) => seriesOf(run, worstLatencies(run.answers.ping, untilMs))),
  });
}

function worstLatencies(
  { answeredMs, latencyMs }: Run['answers']['ping'],
  untilMs: number,
): [number, number][] {
  const worst = new Map<number, number>();
  for (const [at, atMs] of answeredMs.entries()) {
    if (atMs > untilMs) break;
    const step = Math.floor(atMs / LATENCY_STEP_MS) * LATENCY_STEP_MS;
    worst.set(step, Math.max(worst.get(step) ?? 0, latencyMs[at]!));
  }
  return [...worst];
}

function residentChart(runs: readonly Run[]): string {
  const untilMs = drawnUntilMs(runs);
  return lineChart({
    title: "Memory in place: the resident set of the VM's QEMU",
    x: sinceOrder,
    y: { label: 'MiB', scale: 'linear', format: plain },
    series: runs.map((run) =>
      seriesOf(
        run,
        run.resident
          .filter(({ ms }) => ms <= untilMs)
          .map(({ ms, residentBytes }) => [ms, residentBytes / 2 ** 20]),
      ),
    ),
  });
}

function faultChart(runs: readonly Run[]): string {
  return lineChart({
    title: 'Demand faults: distribution of the time to serve one',
    x: { label: 'µs', scale: 'log', format: plain },
    y: { label: 'share of faults', scale: 'linear', format: formatPercent },
    series: runs
      .filter(({ transfer }) => transfer?.faultPercentilesUs)
      .map((run) =>
        seriesOf(
          run,
          run.transfer!.faultPercentilesUs!.map((us, percent) => [us, percent / 100]),
        ),
      ),
  });
}

function seriesOf({ scenario }: Run, points: Series['points']): Series {
  return { name: titleOf(scenario), color: colorOf(scenario), points };
}

function formatPercent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

function formatCount(value: number): string {
  return Math.round(value).toLocaleString('en');
}

function plain(value: number): string {
  return value >= 10_000 ? value.toLocaleString('en') : String(Number(value.toPrecision(6)));
}
