/**
 * Draws docs/restore.svg, a full restore beside a lazy one on one axis of time, from a report of
 * `scripts/demo.sh --json` on stdin. The report's median figures are the picture's.
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { formatBytes, formatMs } from '../src/util/units.js';
import { PACKAGE_ROOT } from '../src/util/package-paths.js';
import type { DemoReport } from './demonstration.js';

const WIDTH = 820;
const LEFT = 20;
const AXIS = WIDTH - 2 * LEFT - 130;
const BAR = 26;
const COLORS = { wait: '#d0d7de', runs: '#2da44e', memory: '#54aeff', text: '#57606a' } as const;

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
    ...drawLegend(208),
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

function drawLegend(y: number): string[] {
  const entries = [
    [COLORS.wait, 'the VM does not run yet'],
    [COLORS.runs, 'the VM runs'],
    [COLORS.memory, 'its memory arrives'],
  ] as const;
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

const report = JSON.parse(await text(process.stdin)) as DemoReport;
writeFileSync(path.join(PACKAGE_ROOT, 'docs', 'restore.svg'), draw(report));
