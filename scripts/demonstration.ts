/**
 * The story of the demonstration: boots a real guest, saves it live with the real command, kills it, and brings it
 * back by stock QEMU's full restore, eagerly and lazily. After each restore by vmckpt the guest proves that it is
 * whole.
 */
import path from 'node:path';
import type { VmSummary } from '../src/vms/list.js';
import type { RestoreReport } from '../src/restore/report.js';
import type { SaveReport } from '../src/save/save.js';
import { QmpClient } from '../src/qemu/qmp.js';
import { roundMs } from '../src/timeline/clock.js';
import { Console, type Heartbeat } from '../test/support/console.js';
import { bootGuest, type Guest } from '../test/support/guest.js';
import { killAndWait } from '../test/support/processes.js';
import { countWrongValues, httpFileIntact, loadMemcached } from '../test/support/workloads.js';
import type { Accelerator } from '../src/bench/guest.js';
import { stockSave } from '../src/bench/stock.js';
import { stockRestore, type StockRestore } from './stock.js';
import { settleHost, type Workplace } from './workplace.js';

const MEMCACHED_LOAD = { keyCount: 2500, valueBytes: 4000 };
const PAGE_BYTES = 4096;
const CONSOLE_TIMEOUT_MS = 60_000;

export interface DemoOptions {
  readonly ramMb: number;
  readonly fillMb: number;
  readonly qemu: string;
  readonly accel: Accelerator;
  readonly rounds: number;
}

/** What is known of the guest before it is killed. */
interface Past {
  readonly beforeSave: Heartbeat;
  readonly afterSave: Heartbeat;
  readonly values: { readonly port: number; readonly keyCount: number; readonly valueBytes: number };
}

export type DemoRestore = RestoreReport & {
  readonly guestVerified: boolean;
  readonly firstHeartbeatMs: number;
};

export interface DemoReport {
  readonly qemu: string;
  readonly guest: { readonly ramBytes: number; readonly dataBytes: number };
  readonly save: SaveReport;
  readonly baseline: { readonly fullRestoreResumeMs: number; readonly firstHeartbeatMs: number };
  readonly restores: readonly DemoRestore[];
}

/** Runs it once: one guest, one save, `rounds` restores of each kind. What it starts ends with the workplace. */
export async function demonstrate(options: DemoOptions, workplace: Workplace): Promise<DemoReport> {
  const { dir, vmckpt } = workplace;
  const { ramMb, fillMb, qemu, accel, rounds } = options;
  say(`booting a Linux guest with ${ramMb} MiB of RAM, ${fillMb} MB of it filled with data (${accel})`);
  await settleHost(ramMb * 2 ** 20);
  const guest = await bootGuest({ dir, qemu, accel, ramMb, fillMb });
  await guest.waitReady();
  const values = { port: guest.ports.memcached, ...MEMCACHED_LOAD };
  await loadMemcached(values);
  const { pageCount, ok } = await guest.console.verify();
  if (!ok) throw new Error('the guest finds its memory wrong before anything was done to it');

  say('vmckpt save: while it runs');
  const beforeSave = await guest.console.nextHeartbeat();
  const save = await vmckpt<SaveReport>(['save', `qmp:${guest.qmpSocket}`, 'demo']);
  const past: Past = { beforeSave, afterSave: await guest.console.nextHeartbeat(), values };

  say("stock QEMU's own stream of the same guest, for comparison");
  const version = await qemuVersion(guest);
  const streamFile = path.join(dir, 'stock.stream');
  await stockSave(guest, 'stopped', streamFile);
  await guest.stop();

  const baselines: StockRestore[] = [];
  const restores = { eager: [] as DemoRestore[], lazy: [] as DemoRestore[] };
  for (let round = 0; round < rounds; round++) {
    say('killed. Stock QEMU restores it');
    await settleHost(guest.ramBytes);
    baselines.push(await stockRestore(guest, streamFile));
    for (const mode of ['eager', 'lazy'] as const) {
      say(`killed. vmckpt restore --mode ${mode}, and the guest checks all that it has`);
      await settleHost(guest.ramBytes);
      restores[mode].push(await restoreAndVerify({ mode, guest, past, vmckpt }));
    }
  }
  const baseline = median(baselines);
  return {
    qemu: version,
    guest: { ramBytes: guest.ramBytes, dataBytes: pageCount * PAGE_BYTES },
    save,
    baseline: { fullRestoreResumeMs: baseline.resumeMs, firstHeartbeatMs: baseline.firstHeartbeatMs },
    restores: Object.values(restores).map((runs) => ({
      ...median(runs),
      guestVerified: runs.every(({ guestVerified }) => guestVerified),
    })),
  };
}

interface RestoreWork {
  readonly mode: 'eager' | 'lazy';
  readonly guest: Guest;
  readonly past: Past;
  readonly vmckpt: Workplace['vmckpt'];
}

async function restoreAndVerify({ mode, guest, past, vmckpt }: RestoreWork): Promise<DemoRestore> {
  const connected = Console.connect(guest.consoleSocket, CONSOLE_TIMEOUT_MS).then(async (console) => ({
    console,
    first: await console.nextHeartbeat(CONSOLE_TIMEOUT_MS),
  }));
  connected.catch(() => undefined); // awaited below, unless the restore fails first
  const args = ['--mode', mode, '--qemu', guest.argv[0]!];
  const report = await vmckpt<RestoreReport>(['restore', 'demo', ...args]);
  const { console, first } = await connected;
  const { vms } = await vmckpt<{ vms: VmSummary[] }>(['ps']);
  const startedAtMs = Date.parse(vms.find(({ name }) => name === 'demo')!.restoredAt);
  const spawnedAtMs = startedAtMs + report.verbMs! - report.resumeMs!;
  const guestVerified = await isWhole({ console, first, guest, past });
  console.close();
  await killAndWait(report.qemuPid!);
  return {
    ...report,
    guestVerified,
    firstHeartbeatMs: roundMs(performance.timeOrigin + first.atMs - spawnedAtMs),
  };
}

interface Evidence {
  readonly console: Console;
  readonly first: Heartbeat;
  readonly guest: Guest;
  readonly past: Past;
}

/** All that the guest can be asked, and what its clients see. */
async function isWhole({ console, first, guest, past }: Evidence): Promise<boolean> {
  const { ok, bad, n } = await console.verify();
  const findings = {
    'its memory': ok && bad === 0,
    'its disk': await console.diskIntact(),
    'its tmpfs': await console.tmpfsIntact(),
    'its counter': past.beforeSave.n <= first.n && first.n <= past.afterSave.n && first.n < n,
    memcached: (await countWrongValues(past.values)) === 0,
    httpd: await httpFileIntact(guest.ports.http),
  };
  const wrong = Object.entries(findings).flatMap(([what, intact]) => (intact ? [] : [what]));
  if (wrong.length > 0) say(`NOT WHOLE: ${wrong.join(', ')}`);
  return wrong.length === 0;
}

async function qemuVersion(guest: Guest): Promise<string> {
  const qmp = await QmpClient.connect({ path: guest.qmpSocket });
  await qmp.close();
  return qmp.version.text;
}

/** The run in the middle, by the time until the VM ran. */
function median<T extends { readonly resumeMs: number | null }>(runs: readonly T[]): T {
  const sorted = [...runs].sort((a, b) => (a.resumeMs ?? Infinity) - (b.resumeMs ?? Infinity));
  return sorted[Math.floor((sorted.length - 1) / 2)]!;
}

/** Progress, on stderr: stdout is for results. */
export function say(text: string): void {
  console.error(`• ${text}`);
}

/** What went wrong, and where to look, instead of a stack trace. */
export async function runScript(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    say(`failed: ${(error as Error).message}`);
    say('vmckpt doctor (node dist/cli/main.js doctor) tells what this host and this user lack.');
    process.exit(1);
  }
}
