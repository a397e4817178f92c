/**
 * Draws the README's pictures from a report on stdin, whose median figures are the picture's: docs/restore.svg, a full
 * restore beside a lazy one on one axis of time, from `scripts/demo.sh --json`; docs/clients.svg, how soon clients are
 * served again, from the report.json of `vmckpt bench resume`.
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { findFigure } from '../src/bench/figures.js';
import { titleOf } from '../src/bench/report/charts.js';
import type { ResumeReport } from '../src/bench/resume-report.js';
import { formatBytes, formatMs } from '../src/util/units.js';
import { PACKAGE_ROOT } from '../src/util/package-paths.js';
import type { DemoReport } from './demonstration.js';

const WIDTH = 820;
const LEFT = 20;
const AXIS = WIDTH - 2 * LEFT - 130;
const BAR = 26;
const COLORS = { wait: '#d0d7de', runs: '#2da44e', memory: '#54aeff', text: '#57606a' } as const;

/** What docs/clients.svg compares, from a cold disk. */
const COMPARED: readonly string[] = [
  'qemu-full',
  'qemu-mapped-ram',
  'stream-sequential',
  'lazy',
  'learned',
  'map',
];
const CLIENT_ROW = 44;

interface Lane {
  readonly title: string;
  readonly resumeMs: number;
  readonly completeMs: number;
}

function draw({ qemu, guest, save, baseline, restores }: DemoReport): string {
  const lazy = restores.find(({ mode }) => mode === 'lazy')!;
  const stock = baseline.fullRestoreResumeMs;
  const lanes: Lane[] = [
    { title: "QEMU's full restore", resumeMs: stock, completeMs: stock },
    { title: 'vmckpt restore (lazy)', resumeMs: lazy.resumeMs!, completeMs: lazy.completeMs! },
  ];
  const endMs = Math.max(...lanes.map(({ completeMs }) => completeMs)) * 1.08;
  const caption =
    `${formatBytes(guest.ramBytes)} of RAM, ${formatBytes(save.nonZeroBytes)} of it not zero; ` +
    `QEMU ${qemu.split(' ')[0]}, software emulation, warm cache`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} 250" width="${WIDTH}" height="250" font-family="system-ui, sans-serif" font-size="13">`,
    `<title>${lanes.map(({ title, resumeMs }) => `${title}: runs after ${formatMs(resumeMs)}`).join('; ')}</title>`,
    `<rect width="${WIDTH}" height="250" rx="8" fill="#ffffff"/>`,
    ...lanes.map((lane, at) => drawLane(lane, { y: 40 + at * 88, endMs })),
    ...drawLegend(208, [
      [COLORS.wait, 'the VM does not run yet'],
      [COLORS.runs, 'the VM runs'],
      [COLORS.memory, 'its memory arrives'],
    ]),
    label({ x: LEFT, y: 238, content: caption }),
    '</svg>',
    '',
  ].join('\n');
}

/** What the VM does, and below it what its memory does. */
function drawLane(
  { title, resumeMs, completeMs }: Lane,
  { y, endMs }: { readonly y: number; readonly endMs: number },
): string {
  const x = (ms: number) => LEFT + (ms / endMs) * AXIS;
  const bar = (fromMs: number, toMs: number, color: string, { dy = 0, height = BAR } = {}) =>
    `<rect x="${x(fromMs).toFixed(1)}" y="${y + dy}" width="${Math.max(2, x(toMs) - x(fromMs)).toFixed(1)}" height="${height}" fill="${color}"/>`;
  const memoryFromMs = resumeMs === completeMs ? 0 : resumeMs;
  return [
    label({ x: LEFT, y: y - 8, content: title, bold: true }),
    bar(0, resumeMs, COLORS.wait),
    bar(resumeMs, endMs, COLORS.runs),
    bar(memoryFromMs, completeMs, COLORS.memory, { dy: BAR + 2, height: 8 }),
    label({ x: x(endMs) + 8, y: y + 18, content: `runs after ${formatMs(resumeMs)}`, bold: true }),
    label({ x: x(completeMs) + 6, y: y + BAR + 12, content: `all memory there: ${formatMs(completeMs)}` }),
  ].join('\n');
}

function drawLegend(y: number, entries: readonly (readonly [color: string, meaning: string])[]): string[] {
  return entries.flatMap(([color, meaning], at) => {
    const x = LEFT + at * 200;
    return [
      `<rect x="${x}" y="${y - 10}" width="12" height="12" fill="${color}"/>`,
      label({ x: x + 18, y, content: meaning }),
    ];
  });
}

interface Label {
  readonly x: number;
  readonly y: number;
  readonly content: string;
  readonly bold?: boolean;
}

function label({ x, y, content, bold = false }: Label): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x.toFixed(1)}" y="${y}" fill="${COLORS.text}"${bold ? ' font-weight="600"' : ''}>${escaped}</text>`;
}

function drawClients({ summaries, environment, options }: ResumeReport): string {
  const ramMib = options.ramMib[0]!;
  const rows = COMPARED.flatMap((scenario) => {
    const place = { scenario, cache: 'cold', ramMib } as const;
    const answerMs = findFigure(summaries, place, 'firstAnswerMs')?.median;
    const backMs = findFigure(summaries, place, 'client90Ms')?.median;
    return answerMs === undefined || backMs === undefined
      ? []
      : [{ title: titleOf(scenario), answerMs, backMs }];
  });
  const endMs = Math.max(...rows.map(({ backMs }) => backMs)) * 1.05;
  const x = (ms: number) => LEFT + (ms / endMs) * AXIS;
  const height = 70 + rows.length * CLIENT_ROW;
  const bar = (row: number, [fromMs, toMs]: readonly [number, number], color: string) =>
    `<rect x="${x(fromMs).toFixed(1)}" y="${28 + row * CLIENT_ROW}" width="${Math.max(2, x(toMs) - x(fromMs)).toFixed(1)}" height="18" fill="${color}"/>`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="system-ui, sans-serif" font-size="13">`,
    `<title>${rows.map(({ title, backMs }) => `${title}: clients served as before after ${formatMs(backMs)}`).join('; ')}</title>`,
    `<rect width="${WIDTH}" height="${height}" rx="8" fill="#ffffff"/>`,
    ...rows.flatMap(({ title, answerMs, backMs }, row) => [
      label({ x: LEFT, y: 22 + row * CLIENT_ROW, content: title, bold: true }),
      bar(row, [0, answerMs], COLORS.wait),
      bar(row, [answerMs, backMs], COLORS.memory),
      bar(row, [backMs, endMs], COLORS.runs),
      label({ x: x(endMs) + 8, y: 42 + row * CLIENT_ROW, content: formatMs(backMs), bold: true }),
    ]),
    ...drawLegend(height - 34, [
      [COLORS.wait, 'no client is answered'],
      [COLORS.memory, 'memcached below 90 %'],
      [COLORS.runs, 'served as before'],
    ]),
    label({
      x: LEFT,
      y: height - 10,
      content: `${formatBytes(ramMib * 2 ** 20)} of RAM, cold page cache; QEMU ${environment.qemu.split(' ')[0]}, software emulation`,
    }),
    '</svg>',
    '',
  ].join('\n');
}

const report = JSON.parse(await text(process.stdin)) as DemoReport | ResumeReport;
const [name, picture] =
  'summaries' in report ? ['clients.svg', drawClients(report)] : ['restore.svg', draw(report)];
writeFileSync(path.join(PACKAGE_ROOT, 'docs', name), picture);
