/** Makes report.html of `vmckpt bench save`. */
import { formatBytes, formatMs } from '../../util/units.js';
import { chartGrid, colorAt, hostRows, legend, page, ratioTable, spreadCell, table } from '../report/html.js';
import { barChart, escapeText, lineChart, type Axis } from '../report/svg.js';
import { findSpread, SAVE_FIGURES, type SaveFigureName } from './figures.js';
import { SAVE_RATIOS } from './ratios.js';
import type { SaveBenchReport, SaveRun } from './save-report.js';
import { LOADS, SAVE_SCENARIOS, type LoadName, type SaveScenario } from './scenarios.js';

const SCENARIO_NAMES = Object.keys(SAVE_SCENARIOS) as SaveScenario[];
const BARS: readonly SaveFigureName[] = [
  'totalMs',
  'pauseMs',
  'storedBytes',
  'processPeakBytes',
  'getsPerS',
  'clockLossMsPerMin',
  'resumeMs',
  'firstAnswerMs',
  'completeMs',
];

interface Place {
  readonly ramMib: number;
  readonly load: LoadName;
}

export function renderSaveReport(report: SaveBenchReport): string {
  const { options, environment } = report;
  const places = options.ramMib.flatMap((ramMib) => options.loads.map((load): Place => ({ ramMib, load })));
  const rounds = options.rounds === 1 ? 'one round' : `${options.rounds} rounds in shuffled order`;
  const { qemu, accelerator, startedAt } = environment;
  const subtitle = `QEMU ${qemu}, ${accelerator}; ${rounds}, medians and ranges; ${startedAt}.`;
  return page('vmckpt bench save', [
    `<p>${escapeText(subtitle)} Every guest found all of its memory right.</p>`,
    ratioTable(SAVE_RATIOS, report),
    ...places.flatMap((place) => sectionOf(report, place)),
    absenceList(report),
    environmentTable(report),
  ]);
}

function sectionOf(report: SaveBenchReport, place: Place): string[] {
  const { ramMib, load } = place;
  const own = report.summaries.filter((one) => one.ramMib === ramMib && one.load === load);
  const found = SCENARIO_NAMES.filter((name) => own.some(({ scenario }) => scenario === name));
  return [
    `<h2>${formatBytes(ramMib * 2 ** 20)} of RAM, guest ${escapeText(LOADS[load].title)}</h2>`,
    legend(found.map((name) => ({ title: SAVE_SCENARIOS[name], color: colorOf(name) }))),
    chartGrid([
      ...BARS.flatMap((figure) => bars(report, place, { figure, found })),
      ...seriesCharts(report, place),
    ]),
    figureTable(report, place, found),
  ];
}

/** Returns no chart if no scenario has the figure. */
function bars(
  { summaries }: SaveBenchReport,
  place: Place,
  { figure, found }: { readonly figure: SaveFigureName; readonly found: readonly SaveScenario[] },
): string[] {
  const { title, format } = SAVE_FIGURES[figure];
  const all = found.flatMap((scenario) => {
    const value = findSpread(summaries, { ...place, scenario }, figure);
    return value === undefined ? [] : [{ label: SAVE_SCENARIOS[scenario], color: colorOf(scenario), value }];
  });
  return all.length === 0 ? [] : [barChart({ title, format, bars: all })];
}

const plain = (value: number) => String(Number(value.toPrecision(4)));
const since: Axis = { label: 's since the observation began', scale: 'linear', format: plain };

/** Shows the last round. */
function seriesCharts({ runs, options }: SaveBenchReport, { ramMib, load }: Place): string[] {
  const series = runs.filter(
    (run) =>
      run.ramMib === ramMib &&
      run.load === load &&
      run.round === options.rounds &&
      run.getsEachS !== undefined,
  );
  if (series.length === 0) return [];
  return [
    lineChart({
      title: 'Gets answered in each second (last round)',
      x: since,
      y: { label: 'gets', scale: 'linear', format: plain },
      series: series.map((run) => ({
        ...nameOf(run),
        points: run.getsEachS!.map((count, second) => [second, count] as const),
      })),
    }),
    lineChart({
      title: 'Pause of each capture (last round)',
      x: since,
      y: { label: 'ms', scale: 'linear', format: plain },
      series: series.map((run) => ({
        ...nameOf(run),
        points: (run.captures ?? []).map(({ startedMs, pauseMs }) => [startedMs / 1000, pauseMs] as const),
      })),
    }),
  ];
}

function nameOf({ scenario }: SaveRun): { readonly name: string; readonly color: string } {
  const known = scenario as SaveScenario;
  return { name: SAVE_SCENARIOS[known], color: colorOf(known) };
}

function figureTable({ summaries }: SaveBenchReport, place: Place, found: readonly SaveScenario[]): string {
  const names = Object.keys(SAVE_FIGURES) as SaveFigureName[];
  const spreadOf = (scenario: SaveScenario, figure: SaveFigureName) =>
    findSpread(summaries, { ...place, scenario }, figure);
  const used = names.filter((figure) => found.some((scenario) => spreadOf(scenario, figure) !== undefined));
  const rows = found.map((scenario) => [
    escapeText(SAVE_SCENARIOS[scenario]),
    ...used.map((figure) => spreadCell(spreadOf(scenario, figure), SAVE_FIGURES[figure].format)),
  ]);
  return table(['', ...used.map((figure) => escapeText(SAVE_FIGURES[figure].title))], rows);
}

function absenceList({ absences }: SaveBenchReport): string {
  if (absences.length === 0) return '';
  const items = absences.map(({ scenario, load, ramMib, reason }) => {
    return `<li>${escapeText(`${scenario}, ${ramMib} MiB, guest ${LOADS[load].title}: ${reason}`)}</li>`;
  });
  return `<h2>Not measured</h2><ul>${items.join('')}</ul>`;
}

function environmentTable({ environment, options }: SaveBenchReport): string {
  const { diskWriteBytesPerS, ...host } = environment;
  const rows = [
    ...hostRows(host),
    ['disk, sequential write, fsynced', `${formatBytes(diskWriteBytesPerS)}/s`],
    ['seed', String(options.seed)],
    ['saves of a chain', String(options.saves)],
    ['captures beside clients', formatMs(options.captureS * 1000)],
  ];
  return `<h2>Environment</h2>${table([], rows)}`;
}

function colorOf(scenario: SaveScenario): string {
  return colorAt(SCENARIO_NAMES.indexOf(scenario));
}
