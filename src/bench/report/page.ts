/** report.html: one file that needs nothing else, readable in light and dark. */
import { formatBytes, formatMs } from '../../util/units.js';
import type { FigureName } from '../figures.js';
import { intervalText, type Certainty } from '../confidence.js';
import type { CacheState } from '../page-cache.js';
import { RATIOS } from '../ratios.js';
import type { ResumeReport } from '../resume-report.js';
import { chartsOf, colorOf, titleOf, type Place } from './charts.js';
import { escapeText } from './svg.js';

/** One for each scenario, in their order; baselines are greys and browns. */
const COLORS: readonly { readonly light: string; readonly dark: string }[] = [
  { light: '#57606a', dark: '#9aa4af' },
  { light: '#9a6700', dark: '#d4a72c' },
  { light: '#8250df', dark: '#b892f5' },
  { light: '#bf3989', dark: '#f07fc0' },
  { light: '#1a7f37', dark: '#57c56f' },
  { light: '#72b81f', dark: '#a6e05a' },
  { light: '#0969da', dark: '#6cb0ff' },
  { light: '#0598bc', dark: '#4fd6ee' },
  { light: '#cf222e', dark: '#ff8a8a' },
  { light: '#e16f24', dark: '#ffb077' },
  { light: '#4338ca', dark: '#a5a0ff' },
  { light: '#0f766e', dark: '#5fd4c8' },
];

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
  return [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
    '<title>vmckpt bench resume</title>',
    `<style>${stylesheet()}</style></head><body><main>`,
    '<h1>vmckpt bench resume</h1>',
    `<p>${escapeText(subtitle(report))}</p>`,
    ratioTable(report),
    comparisonTable(report),
    ...places.flatMap((place) => sectionOf(report, place)),
    absenceList(report),
    environmentTable(report),
    '</main></body></html>',
    '',
  ].join('\n');
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
  const state: Record<CacheState, string> = {
    warm: 'everything in the page cache',
    cold: 'nothing in the page cache',
  };
  return [
    `<h2>${formatBytes(ramMib * 2 ** 20)} of RAM, ${state[cache]}</h2>`,
    legend(report),
    `<div class="charts">${chartsOf(report, { ramMib, cache })
      .map((chart) => `<figure>${chart}</figure>`)
      .join('')}</div>`,
    figureTable(report, { ramMib, cache }),
  ];
}

function legend({ options }: ResumeReport): string {
  const entries = options.scenarios.map(
    (scenario) =>
      `<span><i style="background:${colorOf(scenario)}"></i>${escapeText(titleOf(scenario))}</span>`,
  );
  return `<p class="legend">${entries.join(' ')}</p>`;
}

function ratioTable({ ratios, missing, certainties = {} }: ResumeReport): string {
  const rows = Object.entries(RATIOS).map(([name, { what, goal }]) => {
    const value = ratios[name];
    const goalText = goal === undefined ? '' : 'atMost' in goal ? `≤ ${goal.atMost}` : `≥ ${goal.atLeast}`;
    const certainty = certainties[name];
    const shown =
      value === undefined
        ? `<span class="why">${escapeText(missing[name] ?? '')}</span>`
        : ratioText(name, value);
    const verdict = goal === undefined || value === undefined ? '' : verdictOf(value, goal, certainty);
    return [
      `<code>${name}</code><br>${escapeText(what)}`,
      shown,
      rangeText(name, certainty),
      goalText,
      verdict,
    ];
  });
  return `<h2>Ratios</h2>${table(['', 'of medians', 'of each round, median', 'goal', ''], rows)}`;
}

type Goal = NonNullable<(typeof RATIOS)[string]['goal']>;

/** A goal within the interval is neither held nor missed for sure: more rounds tell. */
function verdictOf(value: number, goal: Goal, certainty: Certainty | undefined): string {
  const limit = 'atMost' in goal ? goal.atMost : goal.atLeast;
  const holds = 'atMost' in goal ? value <= limit : value >= limit;
  const isOpen = certainty !== undefined && certainty.low <= limit && limit <= certainty.high;
  return `${holds ? 'holds' : 'missed'}${isOpen ? '<small>not for sure</small>' : ''}`;
}

function rangeText(name: string, certainty: Certainty | undefined): string {
  if (certainty === undefined) return '';
  const show = (value: number) => ratioText(name, value);
  return `${show(certainty.median)}<small>${intervalText(certainty, show)}</small>`;
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

function ratioText(name: string, value: number): string {
  if (name.endsWith('Bytes')) return formatBytes(value);
  return name.endsWith('Us') ? us(value) : value.toFixed(value < 0.1 ? 3 : 2);
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
    ...used.map(([name, , format]) => {
      const spread = figures[name];
      if (spread === undefined) return '–';
      const range = spread.count > 1 ? `<small>${format(spread.min)} – ${format(spread.max)}</small>` : '';
      return `${format(spread.median)}${range}`;
    }),
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
  const { memoryBytes, diskReadBytesPerS, loadAtStart, loadAtEnd, isVirtual, ...plain } = environment;
  const reference = references.map(
    ({ ramMib, perS }) =>
      `${ramMib} MiB: ping ${perS.ping.toFixed(0)}, memcached ${perS.memcached.toFixed(0)}, HTTP ${perS.http.toFixed(1)}`,
  );
  const rows = [
    ...Object.entries(plain).map(([name, value]) => [name, escapeText(String(value ?? 'unknown'))]),
    ['memory', formatBytes(memoryBytes)],
    ['disk, sequential read', `${formatBytes(diskReadBytesPerS)}/s`],
    ['the host is itself a VM', isVirtual ? 'yes' : 'no'],
    ['load at the start and the end', `${loadAtStart.toFixed(2)}, ${loadAtEnd.toFixed(2)}`],
    ['seed', String(options.seed)],
    ['watched after the resume', formatMs(options.observeMs)],
    ['reference, answers per second', reference.join('; ')],
  ];
  return `<h2>Environment</h2>${table([], rows)}`;
}

/** Cells are HTML. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, row: readonly string[]) =>
    `<tr>${row.map((cell) => `<${tag}>${cell}</${tag}>`).join('')}</tr>`;
  return `<div class="wide"><table>${head.length === 0 ? '' : cells('th', head)}${rows.map((row) => cells('td', row)).join('')}</table></div>`;
}

function stylesheet(): string {
  const variables = (theme: 'light' | 'dark') =>
    COLORS.map((color, at) => `--scenario-${at}:${color[theme]}`).join(';');
  return `
:root{color-scheme:light dark;--text:#1f2328;--dim:#59636e;--line:#d1d9e0;--back:#fff;${variables('light')}}
@media (prefers-color-scheme:dark){:root{--text:#e6edf3;--dim:#9198a1;--line:#3d444d;--back:#0d1117;${variables('dark')}}}
body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1500px;margin:0 auto;padding:1.5rem}
h1,h2{line-height:1.2}h2{margin-top:2.5rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,560px),1fr));gap:1.2rem}
figure{margin:0;border:1px solid var(--line);border-radius:8px;padding:.8rem}
svg{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}
svg text{fill:var(--dim)}svg .title{fill:var(--text);font-weight:600;font-size:13px}svg .value{fill:var(--text)}
.grid{stroke:var(--line);stroke-dasharray:2 3}.axis{stroke:var(--dim)}.whisker{stroke:var(--text);fill:none}
.legend span{margin-right:1.2em;white-space:nowrap}.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
td,th{border-bottom:1px solid var(--line);padding:.35rem .7rem;text-align:right;vertical-align:top;white-space:nowrap}
td:first-child,th:first-child{text-align:left;white-space:normal;min-width:16em}
small{display:block;color:var(--dim)}.why{color:var(--dim);white-space:normal}
`;
}
