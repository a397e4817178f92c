/**
 * The short form of every suite, with a guest that checks itself (fixtures/bare): every save method, restore mode and
 * path; clones, learn, export and import, a damaged page, and processes killed at random moments.
 */
import { cpSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { soak, type SoakRun } from '../../scripts/soaking.js';
import { openWorkplace } from '../../scripts/workplace.js';
import type { Accelerator } from '../../src/bench/guest.js';
import type { LearnReport } from '../../src/learn/learn.js';
import { HOT_PACK_FILE } from '../../src/checkpoint/format.js';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { WORKING_SET_FILE } from '../../src/working-set/file.js';
import { NEXT_PLAN_FILE } from '../../src/working-set/next-plan.js';
import { PAGE_KINDS } from '../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import type { ClonesReport } from '../../src/restore/clones.js';
import type { VmSummary } from '../../src/vms/list.js';
import {
  BARE_WHOLE,
  examineBare,
  nextSweep,
  nextSweeps,
  startBare,
  type BareVm,
  type Sweep,
} from './bare.js';
import { qemuBinary, type QemuChoice } from './cache.js';
import { restoreGuest, saveGuest, stopRestored, useOwnFolders } from './checkpointing.js';
import { startCli, type CliResult } from './command.js';
import { Console } from './console.js';
import { flipExtents } from './damage.js';
import { chooseSeed, storeProblems } from './faults.js';
import { GuestMemory } from './guest-memory.js';
import { killAtExit, killProcessesOf } from './processes.js';
import { suiteDirectory } from './vitest.js';
import { exportTo, importPieces } from '../unit/interchange/machines.js';
import { openInput } from '../../src/interchange/files.js';

/** One vCPU here, two there. */
const VCPUS = { system: 2, '10': 1, '11': 2 } as const;
/** Many sweeps of the guest. */
const SILENCE_MS = 1_500;
/** Kills on each QEMU; hundreds by hand: scripts/soak.sh --accel kvm. */
const KILLS = { system: 8, '10': 8, '11': 4 } as const;
const METHODS = ['background-snapshot', 'stopped', 'precopy'] as const;

export function matrix(qemu: QemuChoice, accel: Accelerator): void {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  let guest: BareVm;
  let before: Sweep[];

  beforeAll(async () => {
    guest = await startBare({ dir, qemu, accel, smp: VCPUS[qemu], words: 'pause=3' });
    before = await nextSweeps(guest);
    // The one that leaves the VM paused comes last.
    for (const method of ['background-snapshot', 'precopy', 'stopped'] as const)
      await saveGuest(guest, { storeDir, name: method, method, layout: 'raw' });
    await guest.stop();
  });
  afterEach(stopRestored);
  afterAll(() => killProcessesOf(path.join(dir, 'run')));

  async function expectWhole(console: Console): Promise<void> {
    // Side by side: each waits for lines of its processor.
    const findings = await Promise.all(before.map((sweep) => examineBare(console, sweep)));
    expect(findings).toEqual(before.map(() => BARE_WHOLE));
  }

  const cli = (...args: string[]): Promise<CliResult> =>
    startCli(['--json', '--store', storeDir, ...args], { env: { TMPDIR: dir } }).ended;
  const restoreArgs = ['restore', '--trust-command-line', '--qemu', qemuBinary(qemu)];

  const ways = METHODS.flatMap((method) => [
    ...(['lazy', 'prefetch', 'eager'] as const).flatMap((mode) =>
      (['direct', 'stream'] as const).map((way) => ({ method, mode, way })),
    ),
    { method, mode: 'map', way: 'auto' } as const,
  ]);

  it.each(ways)(
    'saved by $method is whole when it is restored: $mode, $way',
    async ({ method, mode, way }) => {
      const restored = await restoreGuest(guest, { storeDir, reference: method, mode, path: way, qemu });
      expect(restored.report).toMatchObject({ mode, recoveries: 0 });
      await expectWhole(restored.console);
    },
  );

  it('is saved again after a lazy restore, and whole when it is restored from that', async () => {
    const first = await restoreGuest(guest, { storeDir, reference: 'stopped', qemu });
    await saveGuest(guest, { storeDir, name: 'again' });
    await first.stop();
    const second = await restoreGuest(guest, { storeDir, reference: 'again', qemu });
    await expectWhole(second.console);
  });

  it('is whole in each of its clones', async () => {
    const counted = (await cli(...restoreArgs, 'precopy', '--count', '2')).json as ClonesReport;
    const named = await cli(...restoreArgs, 'precopy', '--as', 'twin');
    expect(named.code).toBe(0);
    const reports = [...counted.clones, named.json as ClonesReport['clones'][number]];
    expect(reports.map(({ vmName }) => vmName)).toEqual(['precopy.1', 'precopy.2', 'twin']);
    for (const { qemuPid, moved } of reports) {
      killAtExit(qemuPid!);
      const console = await Console.connect(moved.find(({ from }) => from === guest.consoleSocket)!.to);
      await expectWhole(console);
      console.close();
    }
    expect((await cli('stop', 'precopy.1', 'precopy.2', 'twin')).code).toBe(0);
  });

  it('is learned', async () => {
    const args = ['learn', '--trust-command-line', '--qemu', qemuBinary(qemu)];
    const { code, json } = await cli(...args, 'background-snapshot', '--seconds', '0.3');
    const { runs, unitCount } = json as LearnReport;
    expect({ code, modes: runs.map(({ mode }) => mode) }).toEqual({
      code: 0,
      modes: ['lazy', 'exact', 'prefetch'],
    });
    expect(unitCount).toBeGreaterThan(100);
    const learned = await restoreGuest(guest, {
      ...{ storeDir, reference: 'background-snapshot', qemu },
      mode: 'prefetch',
    });
    await expectWhole(learned.console);
  });

  it('is whole when it was exported, imported, and restored from that', async () => {
    const file = path.join(dir, 'exported.stream');
    await exportTo(file, { storeDir, reference: 'background-snapshot' });
    const commandLine = guest.argv.slice(1);
    await importPieces([], { storeDir, name: 'imported', input: await openInput(file), commandLine });
    const restored = await restoreGuest(guest, { storeDir, reference: 'imported', qemu });
    await expectWhole(restored.console);
  });

  it('halts at a damaged page, which is named and never zeros', async () => {
    const damagedStore = path.join(dir, 'damaged');
    cpSync(storeDir, damagedStore, { recursive: true });
    const generation = path.join(damagedStore, 'precopy/1');
    // What was learned from other restores would have the page read before the VM runs, or its copy in the hot pack.
    for (const hint of [WORKING_SET_FILE, NEXT_PLAN_FILE, HOT_PACK_FILE])
      rmSync(path.join(generation, hint), { force: true });
    // Devices are loaded without what lies in the middle of RAM: only the guest or the background asks for it.
    const { extent, pages } = await damageExtent(generation, guest.ramBytes / 2);
    const { code, json } = await cli(...['--store', damagedStore], ...restoreArgs, 'precopy');
    expect({ code, json }).toMatchObject({
      code: 13,
      json: {
        error: { code: 'EXTENT_DAMAGED', message: expect.stringContaining(`extent ${extent} of`) as string },
      },
    });
    const { vms } = (await cli('ps')).json as { vms: VmSummary[] };
    const halted = vms.find(({ name }) => name === 'precopy')!;
    expect(halted).toMatchObject({ status: 'damaged', error: { code: 'EXTENT_DAMAGED' } });
    const memory = GuestMemory.open({ pid: halted.qemuPid!, ramBytes: guest.ramBytes });
    expect(pages.filter((page) => memory.isPresent(page * PAGE_BYTES))).toEqual([]);
    memory.close();
    const console = await Console.connect(guest.consoleSocket);
    await expect(nextSweep(console, 0, SILENCE_MS)).rejects.toMatchObject({ code: 'TIMEOUT' });
    console.close();
    expect((await cli('stop', 'precopy')).code).toBe(0);
    expect(await storeProblems(storeDir)).toEqual([]);
  });

  it('comes back whole each time that its processes are killed', { timeout: 600_000 }, async () => {
    const workplace = openWorkplace();
    const seed = chooseSeed();
    console.info(`VMCKPT_SEED=${seed}`);
    const runs: SoakRun[] = [];
    try {
      await soak({ runs: KILLS[qemu], seed, qemu, accel, workplace, onRun: (run) => runs.push(run) });
    } finally {
      killProcessesOf(workplace.runtimeDir);
    }
    expect(runs.length).toBe(KILLS[qemu]);
  });
}

/** Damages an extent that holds nothing but pages of the main memory from `offset` on; returns these as `pages`. */
async function damageExtent(folder: string, offset: number) {
  const reader = await CheckpointReader.open(folder);
  try {
    const ram = reader.layout.blocks.find(({ name }) => name === 'pc.ram')!;
    const pagesOf = new Map<number, number[]>();
    for (let page = 0; page < reader.layout.pageCount; page++) {
      if (reader.kindOf(page) !== PAGE_KINDS.data) continue;
      const extent = reader.extentOf(page);
      pagesOf.set(extent, [...(pagesOf.get(extent) ?? []), page - ram.firstPage]);
    }
    const isMeant = (page: number): boolean => page >= offset / PAGE_BYTES && page < ram.pageCount;
    const [extent, pages] = [...pagesOf].find(([, held]) => held.every(isMeant))!;
    flipExtents(folder, reader, [extent]);
    return { extent, pages };
  } finally {
    reader.close();
  }
}
