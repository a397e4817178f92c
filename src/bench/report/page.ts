/** Makes report.html: one file that needs no other, readable in light and dark. */
import { formatBytes, formatMs } from '../../util/units.js';
import type { FigureName } from '../figures.js';
import { intervalText } from '../confidence.js';
import type { CacheState } from '../page-cache.js';
import { RATIOS } from '../ratios.js';
import type { ResumeReport } from '../resume-report.js';
import { chartsOf, colorOf, titleOf, type Place } from './charts.js';
import { chartGrid, hostRows, legend, page, ratioTable, spreadCell, table } from './html.js';
import { escapeText } from './svg.js';

const count = (value: number) => Math.round(value).toLocaleString('en');
const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
const us = (value: number) => `${value.toFixed(1)} µs`;

const COLUMNS: readonly (readonly [FigureName, string, (value: number) => string])[] = [
  ['resumeMs', 'runs', formatMs],
  ['firstAnswerMs', 'first answer', formatMs],
  ['longestGapMs', 'longest gap', formatMs],
  ['client90Ms', 'memcached at 90 %', formatMs],
  ['http90Ms', 'HTTP at 90 %', formatMs],
  ['completeMs', 'complete', formatMs],
  ['storageReadBytes', 'read from disk', formatBytes],
  ['demandFaults', 'demand faults', count],
  ['vcpuBlockedMs', 'vCPUs waited for pages', formatMs],
  ['faultP50Us', 'fault p50', us],
  ['faultP99Us', 'fault p99', us],
  ['prefetchPrecision', 'precision', percent],
  ['prefetchWasteShare', 'waste', percent],
  ['verifiedPagesPerS', 'pages/s later', count],
  ['hugePageBytes', 'huge pages later', formatBytes],
];

export function renderReport(report: ResumeReport): string {
  const { options } = report;
  const places = options.ramMib.flatMap((ramMib) =>
    (['warm', 'cold'] as const).map((cache): Place => ({ ramMib, cache })),
  );
  return page('vmckpt bench resume', [
    `<p>${escapeText(subtitle(report))}</p>`,
    ratioTable(RATIOS, report),
    comparisonTable(report),
    ...places.flatMap((place) => sectionOf(report, place)),
    absenceList(report),
    environmentTable(report),
  ]);
}

function subtitle({ environment, options, runs }: ResumeReport): string {
  const { qemu, accelerator, startedAt } = environment;
  const rounds = options.rounds === 1 ? 'one round' : `${options.rounds} rounds in shuffled order`;
  const damaged = runs.filter(({ later }) => !later.memoryIntact).length;
  const whole =
    damaged === 0 ? 'Every guest found all of its memory right.' : `${damaged} GUESTS CAME BACK DAMAGED.`;
  return `QEMU ${qemu}, ${accelerator}; ${rounds}, medians and ranges; ${startedAt}. ${whole}`;
}

function sectionOf(report: ResumeReport, { ramMib, cache }: Place): string[] {
  const { options } = report;
  const state: Record<CacheState, string> = {
    warm: 'everything in the page cache',
    cold: 'nothing in the page cache',
  };
  return [
    `<h2>${formatBytes(ramMib * 2 ** 20)} of RAM, ${state[cache]}</h2>`,
    legend(options.scenarios.map((name) => ({ title: titleOf(name), color: colorOf(name) }))),
    chartGrid(chartsOf(report, { ramMib, cache })),
    figureTable(report, { ramMib, cache }),
  ];
}

function comparisonTable({ comparisons = [] }: ResumeReport): string {
  if (comparisons.length === 0) return '';
  const rows = comparisons.map(({ scenario, cache, ramMib, figure, ratio, certainty }) => [
    `${escapeText(scenario)}, ${cache}, ${ramMib} MiB`,
    `<code>${escapeText(figure)}</code>`,
    ratio.median.toFixed(3),
    certainty === undefined ? 'one round' : intervalText(certainty),
  ]);
  return `<h2>This build through the other one</h2>${table(['', '', 'median of rounds', ''], rows)}`;
}

function figureTable({ summaries, options }: ResumeReport, { ramMib, cache }: Place): string {
  const own = options.scenarios.flatMap((scenario) =>
    summaries.filter(
      (summary) => summary.scenario === scenario && summary.ramMib === ramMib && summary.cache === cache,
    ),
  );
  const used = COLUMNS.filter(([name]) => own.some(({ figures }) => figures[name] !== undefined));
  const rows = own.map(({ scenario, figures }) => [
    escapeText(titleOf(scenario)),
    ...used.map(([name, , format]) => spreadCell(figures[name], format)),
  ]);
  return table(['', ...used.map(([, title]) => title)], rows);
}

function absenceList({ absences }: ResumeReport): string {
  if (absences.length === 0) return '';
  const items = absences.map(({ scenario, ramMib, cache, reason }) => {
    const where = `${titleOf(scenario)}, ${ramMib} MiB${cache === null ? '' : `, ${cache}`}`;
    return `<li>${escapeText(`${where}: ${reason}`)}</li>`;
  });
  return `<h2>Not measured</h2><ul>${items.join('')}</ul>`;
}

function environmentTable({ environment, options, references }: ResumeReport): string {
  const reference = references.map(
    ({ ramMib, perS }) =>
      `${ramMib} MiB: ping ${perS.ping.toFixed(0)}, memcached ${perS.memcached.toFixed(0)}, HTTP ${perS.http.toFixed(1)}`,
  );
  const rows = [
    ...hostRows(environment),
    ['seed', String(options.seed)],
    ['watched after the resume', formatMs(options.observeMs)],
    ['reference, answers per second', reference.join('; ')],
  ];
  return `<h2>Environment</h2>${table([], rows)}`;
}
