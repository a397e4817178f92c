/**
 * vmckpt against stock QEMU on the same machine, guest and disk: medians, and ratios beside the goals that the
 * project has set itself. A busy machine measures itself: run it on an idle one.
 */
import { mkdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import type { SaveReport } from '../src/save/save.js';
import { QmpClient } from '../src/qemu/qmp.js';
import { formatBytes, formatMs } from '../src/util/units.js';
import { bootGuest, type Guest } from '../test/support/guest.js';
import { demonstrate, runScript, say, type DemoReport } from './demonstration.js';
import { defaultFillMb } from '../src/bench/guest.js';
import { stockSave } from '../src/bench/stock.js';
import { openWorkplace, settleHost, type Workplace } from './workplace.js';

const USAGE = `usage: scripts/bench.sh [--json] [--ram-mb 256,1024,4096] [--qemu system|10|PATH] [--rounds 3] [--only save|restore]`;

/** A load above this share of the processors falsifies what is measured. */
const QUIET_LOAD = 0.5;

interface Options {
  readonly json: boolean;
  readonly sizesMb: readonly number[];
  readonly qemu: string;
  readonly rounds: number;
  readonly only: string | undefined;
}

interface Comparison {
  readonly what: string;
  readonly stock: number;
  readonly ours: number;
  /** ours / stock must not be above it. */
  readonly goal: number | undefined;
  readonly unit: 'ms' | 'bytes';
}

interface SizeReport {
  readonly ramMb: number;
  readonly comparisons: readonly Comparison[];
  readonly restore?: DemoReport;
}

async function main(): Promise<void> {
  const options = parseOptions();
  if (options === undefined) return console.log(USAGE);
  const load = os.loadavg()[0]! / os.availableParallelism();
  if (load > QUIET_LOAD)
    say(`the load of this machine is ${os.loadavg()[0]!.toFixed(1)}: the figures will not be reliable`);
  const workplace = openWorkplace();
  const sizes: SizeReport[] = [];
  for (const ramMb of options.sizesMb) {
    const saves = options.only === 'restore' ? [] : await compareSaves(options, ramMb, workplace);
    const restore = options.only === 'save' ? undefined : await measureRestores(options, ramMb, workplace);
    const restores = restore === undefined ? [] : compareRestores(restore, sizes[0]?.restore);
    const report = { ramMb, comparisons: [...saves, ...restores], ...(restore && { restore }) };
    if (!options.json) console.log(describe(report));
    sizes.push(report);
  }
  if (options.json) console.log(JSON.stringify({ rounds: options.rounds, sizes }));
  process.exit();
}

/** Both into fresh files on the same disk, fsynced, in turn; the guest runs again after each stopped save. */
async function compareSaves(
  { qemu, rounds }: Options,
  ramMb: number,
  workplace: Workplace,
): Promise<Comparison[]> {
  const dir = freshFolder(workplace, `save-${ramMb}`);
  say(`${ramMb} MiB: booting a guest to save`);
  const guest = await bootGuest({ dir, qemu, ramMb, fillMb: defaultFillMb(ramMb) });
  await guest.waitReady();
  const stock = { live: [] as number[], stopped: [] as number[] };
  const ours = { live: [] as SaveReport[], stopped: [] as SaveReport[] };
  const file = path.join(dir, 'stock.stream');
  for (let round = 0; round < rounds; round++) {
    for (const mode of ['live', 'stopped'] as const) {
      say(`${ramMb} MiB, round ${round + 1} of ${rounds}: saving ${mode}`);
      await settleHost(0);
      const method = mode === 'live' ? 'background-snapshot' : 'stopped';
      stock[mode].push((await stockSave(guest, method, file)).totalMs);
      rmSync(file);
      if (mode === 'stopped') await run(guest);
      await settleHost(0);
      const flags = mode === 'live' ? [] : ['--stop'];
      ours[mode].push(await workplace.vmckpt(['save', ...flags, `qmp:${guest.qmpSocket}`, 'bench']));
      if (mode === 'stopped') await run(guest);
      rmSync(workplace.storeDir, { recursive: true });
    }
  }
  await guest.stop();
  const totalMs = (reports: readonly SaveReport[]) => median(reports.map((report) => report.totalMs));
  const [saved] = ours.live;
  return [
    { what: 'save, live', stock: median(stock.live), ours: totalMs(ours.live), goal: 1.1, unit: 'ms' },
    { what: 'save --stop', stock: median(stock.stopped), ours: totalMs(ours.stopped), goal: 1.5, unit: 'ms' },
    { what: 'stored', stock: saved!.nonZeroBytes, ours: saved!.storedBytes, goal: 0.6, unit: 'bytes' },
  ];
}

async function measureRestores(
  { qemu, rounds }: Options,
  ramMb: number,
  workplace: Workplace,
): Promise<DemoReport> {
  const dir = freshFolder(workplace, `restore-${ramMb}`);
  const report = await demonstrate(
    { ramMb, fillMb: defaultFillMb(ramMb), qemu, accel: 'tcg', rounds },
    { ...workplace, dir },
  );
  rmSync(workplace.storeDir, { recursive: true });
  rmSync(dir, { recursive: true });
  if (!report.restores.every(({ guestVerified }) => guestVerified))
    throw new Error('a guest came back damaged');
  return report;
}

/** @param smallest the restores of the first size, which the lazy restore of any other is held against */
function compareRestores(
  { guest, baseline, restores }: DemoReport,
  smallest: DemoReport | undefined,
): Comparison[] {
  const stock = baseline.fullRestoreResumeMs;
  const resumeMs = (report: Pick<DemoReport, 'restores'>, mode: 'eager' | 'lazy') =>
    report.restores.find((restore) => restore.mode === mode)!.resumeMs!;
  const lazy = resumeMs({ restores }, 'lazy');
  return [
    {
      what: 'restore --mode eager: runs',
      stock,
      ours: resumeMs({ restores }, 'eager'),
      goal: 1.1,
      unit: 'ms',
    },
    { what: 'restore --mode lazy: runs', stock, ours: lazy, goal: lazyGoal(guest.ramBytes), unit: 'ms' },
    ...(smallest === undefined
      ? []
      : [
          {
            what: 'the same, against the smallest',
            stock: resumeMs(smallest, 'lazy'),
            ours: lazy,
            goal: 1.3,
            unit: 'ms' as const,
          },
        ]),
  ];
}

function lazyGoal(ramBytes: number): number | undefined {
  if (ramBytes >= 2 ** 32) return 1 / 10;
  return ramBytes >= 2 ** 30 ? 1 / 5 : undefined;
}

/** A Markdown table: docs/benchmarks.md holds such ones. */
function describe({ ramMb, comparisons }: SizeReport): string {
  const line = (...[what, ...cells]: readonly string[]) =>
    `| ${what!.padEnd(32)} |${cells.map((cell) => ` ${cell.padStart(10)} |`).join('')}`;
  const rows = comparisons.map(({ what, stock, ours, goal, unit }) => {
    const format = unit === 'ms' ? formatMs : formatBytes;
    const ratio = ours / stock;
    const verdict = goal === undefined || ratio <= goal ? '' : ', missed';
    return line(
      what,
      format(stock),
      format(ours),
      ratio.toFixed(2),
      goal === undefined ? '' : `≤ ${goal}${verdict}`,
    );
  });
  const head = line(`${ramMb} MiB of RAM`, 'stock', 'vmckpt', 'ratio', 'goal');
  return ['', head, `|---|${'---:|'.repeat(4)}`, ...rows].join('\n');
}

async function run(guest: Guest): Promise<void> {
  const qmp = await QmpClient.connect({ path: guest.qmpSocket });
  await qmp.execute('cont');
  await qmp.close();
}

function freshFolder({ dir }: Workplace, name: string): string {
  const folder = path.join(dir, name);
  mkdirSync(folder);
  return folder;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)]!;
}

function parseOptions(): Options | undefined {
  const { values } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      'ram-mb': { type: 'string', default: '256,1024,4096' },
      qemu: { type: 'string', default: 'system' },
      rounds: { type: 'string', default: '3' },
      only: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const sizesMb = values['ram-mb'].split(',').map(Number);
  return { json: values.json, sizesMb, qemu: values.qemu, rounds: Number(values.rounds), only: values.only };
}

await runScript(main);
