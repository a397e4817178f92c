/** VMs that are restored from a generation which is still arriving, late and in random order, on both paths. */
import { cpSync, existsSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it, onTestFinished, vi } from 'vitest';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { PAGE_KINDS } from '../../src/pages/contracts.js';
import type { VmSummary } from '../../src/vms/list.js';
import { VmFolder } from '../../src/vms/folder.js';
import {
  BARE_WHOLE,
  examineBare,
  kvmProblem,
  nextSweep,
  startBare,
  type BareVm,
  type Sweep,
} from '../support/bare.js';
import { qemuBinary } from '../support/cache.js';
import { restoreGuest, saveGuest, stopRestored, useOwnFolders } from '../support/checkpointing.js';
import { startCli, type CliResult } from '../support/command.js';
import { Console } from '../support/console.js';
import { flipExtents } from '../support/damage.js';
import { chooseSeed, killTransfer, parkedTransfer, Random, untilRunning } from '../support/faults.js';
import { LateFiller, type LateFillerOptions } from '../support/late-filler.js';
import { killProcessesOf } from '../support/processes.js';
import { until } from '../support/until.js';
import { suiteDirectory } from '../support/vitest.js';

/** Longer than a round trip to the other side of the world would be, on most occasions. */
const DELAY_MS = 30;
const QEMU = 'system';

vi.setConfig({ testTimeout: 240_000 });

const dir = suiteDirectory();
const wholeStore = useOwnFolders(dir);
const random = new Random(chooseSeed());
let guest: BareVm;
let before: Sweep;
let fillerCount = 0;

beforeAll(async () => {
  console.info(`VMCKPT_SEED=${random.seed}`);
  guest = await startBare({ dir, qemu: QEMU, accel: kvmProblem() === undefined ? 'kvm' : 'tcg', ramMb: 32 });
  before = await nextSweep(guest.console);
  await saveGuest(guest, { storeDir: wholeStore, name: 'web' });
  await guest.stop();
});
afterEach(async () => {
  await stopRestored();
  await cli('stop', 'web');
});
afterAll(() => killProcessesOf(path.join(dir, 'run')));

const generationDir = () => path.join(wholeStore, 'web/1');
const cli = (...args: string[]): Promise<CliResult> => startCli(['--json', ...args]).ended;

function arriving(options: Partial<LateFillerOptions> = {}): LateFiller {
  const cacheDir = path.join(dir, `cache-${fillerCount++}`);
  const filler = new LateFiller({
    ...{ generationDir: generationDir(), cacheDir, random, delayMs: DELAY_MS },
    ...options,
  });
  onTestFinished(() => filler.end());
  return filler;
}

const restoreArgs = ['restore', '--trust-command-line', '--qemu', qemuBinary(QEMU)];

function startRestore({ storeDir }: LateFiller, ...flags: string[]) {
  return startCli(['--json', '--store', storeDir, ...restoreArgs, ...flags, 'web']);
}

async function expectWhole(): Promise<void> {
  const connected = await Console.connect(guest.consoleSocket);
  try {
    expect(await examineBare(connected, before)).toEqual(BARE_WHOLE);
  } finally {
    connected.close();
  }
}

async function listed(): Promise<VmSummary> {
  const { vms } = (await cli('ps')).json as { vms: VmSummary[] };
  return vms.find(({ name }) => name === 'web')!;
}

const ways = (['lazy', 'prefetch', 'eager'] as const).flatMap((mode) =>
  (['direct', 'stream'] as const).map((way) => ({ mode, way })),
);

it.each(ways)('is whole: $mode, $way', async ({ mode, way }) => {
  const filler = arriving();
  // The first one learns, for the second.
  for (let times = mode === 'prefetch' ? 2 : 1; times > 0; times--) {
    const from = times === 1 ? filler : arriving();
    const restored = await restoreGuest(guest, {
      ...{ storeDir: from.storeDir, reference: 'web', mode, path: way, qemu: QEMU },
    });
    expect(restored.report).toMatchObject({ mode, recoveries: 0 });
    expect(await examineBare(restored.console, before)).toEqual(BARE_WHOLE);
    await restored.stop();
    if (times > 1) for (const hint of ['working-set', 'next-plan']) copyHint(from.dir, filler.dir, hint);
  }
  const lanes = new Set(filler.wants.map(({ lane }) => lane));
  expect(lanes.has(mode === 'eager' ? 'rest' : 'demand')).toBe(true);
  expect(lanes.has('predicted')).toBe(mode === 'prefetch');
});

/** A restore whose VM runs, and whose source has gone away before the background began. */
async function startWaiting(way: string) {
  const filler = arriving();
  const args = ['--json', '--store', filler.storeDir, ...restoreArgs, '--path', way, 'web'];
  const restore = startCli(args, { env: { VMCKPT_PARK: 'background' } });
  const transfer = await parkedTransfer('web', 'background');
  await untilRunning('web', restore);
  filler.isAway = true;
  process.kill(transfer, 'SIGCONT');
  await until('the VM to wait for its source', async () => (await listed()).waitsForSource);
  return { filler, restore };
}

function copyHint(from: string, to: string, hint: string): void {
  if (existsSync(path.join(from, hint))) cpSync(path.join(from, hint), path.join(to, hint));
}

it.each(['direct', 'stream'] as const)('waits for a source that is away: %s', async (way) => {
  const { filler, restore } = await startWaiting(way);
  expect(await listed()).toMatchObject({ status: 'serving' });
  filler.isAway = false;
  expect((await restore.ended).code).toBe(0);
  expect(await listed()).toMatchObject({ waitsForSource: false });
  await expectWhole();
});

it.each(['direct', 'stream'] as const)(
  'is whole when its serving process dies meanwhile: %s',
  async (way) => {
    const { filler, restore } = await startWaiting(way);
    const killed = new VmFolder('web').readTransfer()!.process.pid;
    expect(killTransfer('web')).toBe(true);
    await until('another process to serve', () => new VmFolder('web').readTransfer()?.process.pid !== killed);
    filler.isAway = false;
    expect((await restore.ended).code).toBe(0);
    await expectWhole();
  },
);

it.each(['direct', 'stream'] as const)('names what arrives damaged a second time: %s', async (way) => {
  const damagedStore = path.join(dir, `damaged-${way}`);
  cpSync(wholeStore, damagedStore, { recursive: true });
  const damagedDir = path.join(damagedStore, 'web/1');
  const extent = await damageExtent(damagedDir);
  const filler = arriving({ generationDir: damagedDir });
  const { code, json } = await startRestore(filler, '--path', way).ended;
  const message = expect.stringContaining(`extent ${extent} of`) as string;
  expect({ code, json }).toMatchObject({ code: 13, json: { error: { code: 'EXTENT_DAMAGED', message } } });
  expect(await listed()).toMatchObject({ status: 'damaged' });
  expect(filler.wants.some(({ isAgain }) => isAgain)).toBe(true);
});

/** One in the middle of RAM, which devices do not need. */
async function damageExtent(folder: string): Promise<number> {
  const reader = await CheckpointReader.open(folder);
  const ram = reader.layout.blocks.find(({ name }) => name === 'pc.ram')!;
  let page = ram.firstPage + Math.floor(ram.pageCount / 2);
  while (reader.kindOf(page) !== PAGE_KINDS.data) page++;
  const extent = reader.extentOf(page);
  flipExtents(folder, reader, [extent]);
  reader.close();
  return extent;
}
