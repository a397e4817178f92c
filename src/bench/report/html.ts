/** The parts of all reports: tables, ratios beside their goals, and a page that needs no other file. */
import { formatBytes } from '../../util/units.js';
import { intervalText, type Certainty } from '../confidence.js';
import type { Spread } from '../measure.js';
import type { Environment } from '../resume-report.js';
import { escapeText } from './svg.js';

/** Each scenario has one colour, in their order. Baselines are grey and brown. */
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
  { light: '#7a3e1d', dark: '#c98f6a' },
];

/** The colour of the scenario at this place in its experiment. The page defines as many as there are. */
export function colorAt(index: number): string {
  return `var(--scenario-${index})`;
}

export interface Ratio {
  readonly what: string;
  readonly goal?: { readonly atMost: number } | { readonly atLeast: number };
}

export interface RatioResults {
  readonly ratios: Readonly<Record<string, number>>;
  readonly missing: Readonly<Record<string, string>>;
  readonly certainties?: Readonly<Record<string, Certainty>> | undefined;
}

export function ratioTable(
  all: Readonly<Record<string, Ratio>>,
  { ratios, missing, certainties = {} }: RatioResults,
): string {
  const rows = Object.entries(all).map(([name, { what, goal }]) => {
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

type Goal = NonNullable<Ratio['goal']>;

/** If the goal lies within the interval, more rounds are needed to tell whether it is reached. */
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

function ratioText(name: string, value: number): string {
  if (name.endsWith('Bytes')) return formatBytes(value);
  return name.endsWith('Us') ? `${value.toFixed(1)} µs` : value.toFixed(value < 0.1 ? 3 : 2);
}

/** Cells are HTML. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, row: readonly string[]) =>
    `<tr>${row.map((cell) => `<${tag}>${cell}</${tag}>`).join('')}</tr>`;
  return `<div class="wide"><table>${head.length === 0 ? '' : cells('th', head)}${rows.map((row) => cells('td', row)).join('')}</table></div>`;
}

/** The parts are HTML. */
export function page(title: string, parts: readonly string[]): string {
  return [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
    `<title>${escapeText(title)}</title>`,
    `<style>${stylesheet()}</style></head><body><main>`,
    `<h1>${escapeText(title)}</h1>`,
    ...parts,
    '</main></body></html>',
    '',
  ].join('\n');
}

/** Puts figures side by side, as many as the page is wide. */
export function chartGrid(charts: readonly string[]): string {
  return `<div class="charts">${charts.map((chart) => `<figure>${chart}</figure>`).join('')}</div>`;
}

export function legend(entries: readonly { readonly title: string; readonly color: string }[]): string {
  const spans = entries.map(
    ({ title, color }) => `<span><i style="background:${color}"></i>${escapeText(title)}</span>`,
  );
  return `<p class="legend">${spans.join(' ')}</p>`;
}

/** The median, and below it the range where there is one. */
export function spreadCell(spread: Spread | undefined, format: (value: number) => string): string {
  if (spread === undefined) return '–';
  const { median, min, max, count } = spread;
  const range = count > 1 ? `<small>${format(min)} – ${format(max)}</small>` : '';
  return `${format(median)}${range}`;
}

/** The rows about the machine, which all reports have. */
export function hostRows(environment: Environment): string[][] {
  const { memoryBytes, diskReadBytesPerS, loadAtStart, loadAtEnd, isVirtual, ...plain } = environment;
  return [
    ...Object.entries(plain).map(([name, value]) => [name, escapeText(String(value ?? 'unknown'))]),
    ['memory', formatBytes(memoryBytes)],
    ['disk, sequential read', `${formatBytes(diskReadBytesPerS)}/s`],
    ['the host is itself a VM', isVirtual ? 'yes' : 'no'],
    ['load at the start and the end', `${loadAtStart.toFixed(2)}, ${loadAtEnd.toFixed(2)}`],
  ];
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
