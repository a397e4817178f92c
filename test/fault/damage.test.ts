import { closeSync, cpSync, existsSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { Hints } from '../../src/checkpoint/hints.js';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { PAGE_KINDS } from '../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import type { VmSummary } from '../../src/vms/list.js';
import { VmFolder } from '../../src/vms/folder.js';
import { readWorkingSet } from '../../src/working-set/file.js';
import { pagesOf as pagesIn } from '../../src/working-set/runs.js';
import { restoreGuest, saveGuest } from '../support/checkpointing.js';
import { startCli, type CliResult } from '../support/command.js';
import { Console } from '../support/console.js';
import { flipExtents } from '../support/damage.js';
import { pidsOf, storeProblems } from '../support/faults.js';
import { startGuest, type Guest } from '../support/guest.js';
import { GuestMemory } from '../support/guest-memory.js';
import { killProcessesOf } from '../support/processes.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';

/** Many times the interval of the guest's heartbeat. */
const SILENCE_MS = 1_500;
/** How many extents may be wanted before the VM runs. */
const MAX_HEALED = 60;

// A test is many kills, and each of them a save or a restore, on a machine that may be busy.
vi.setConfig({ testTimeout: 240_000 });

describeOnEachQemu('a restore from a damaged generation', (qemu) => {
  const dir = suiteDirectory();
  const [storeDir, runtimeDir] = [path.join(dir, 'store'), path.join(dir, 'run')];
  const damagedStore = path.join(dir, 'damaged');
  let guest: Guest;
  let reader: CheckpointReader;
  /** The guest's memory: page numbers of its data pages, by extent. */
  const pagesOf = new Map<number, number[]>();

  beforeAll(async () => {
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    guest = await startGuest({ dir, qemu });
    await guest.waitReady();
    await saveGuest(guest, { storeDir, name: 'web' });
    await guest.stop();
    reader = await CheckpointReader.open(path.join(storeDir, 'web/1'));
    const ram = reader.layout.blocks.find(({ name }) => name === 'pc.ram')!;
    for (let page = 0; page < ram.pageCount; page++) {
      if (reader.kindOf(ram.firstPage + page) !== PAGE_KINDS.data) continue;
      const extent = reader.extentOf(ram.firstPage + page);
      pagesOf.set(extent, [...(pagesOf.get(extent) ?? []), page]);
    }
  });
  afterEach(async () => {
    await startCli(['stop', 'web']).ended;
    expect(pidsOf(runtimeDir, 'qemu')).toEqual([]);
    expect(await storeProblems(storeDir)).toEqual([]);
    rmSync(damagedStore, { recursive: true, force: true });
  });
  afterAll(() => {
    reader.close();
    killProcessesOf(runtimeDir);
  });

  /** Once more heals it. */
  const flip = (extents: readonly number[]): void =>
    flipExtents(path.join(damagedStore, 'web/1'), reader, extents);

  function damage(extents: readonly number[]): void {
    cpSync(storeDir, damagedStore, { recursive: true });
    flip(extents);
  }

  function restore(...options: string[]): Promise<CliResult> {
    const own = ['--qemu', guest.argv[0]!, '--trust-command-line', ...options];
    return startCli(['--json', '--store', damagedStore, 'restore', ...own, 'web']).ended;
  }

  /** Extents that a restore of the sound generation needs before the VM runs, or soon after; the rest is the background's. */
  async function wantedEarly(): Promise<Set<number>> {
    damage([]);
    const restored = await restoreGuest(guest, {
      storeDir: damagedStore,
      reference: 'web',
      qemu,
      mode: 'prefetch',
      background: 'when-told',
      exercise: async () => undefined,
    });
    await restored.stop();
    const generation = path.join(damagedStore, 'web/1');
    const { lastTrace } = readWorkingSet(Hints.beside(generation), reader.layout.pageCount).workingSet;
    rmSync(damagedStore, { recursive: true });
    const pages = [...lastTrace!.faultPages, ...pagesIn(lastTrace!.prefetched)];
    const data = pages.filter((page) => reader.kindOf(page) === PAGE_KINDS.data);
    return new Set(data.map((page) => reader.extentOf(page)));
  }

  /** The extent that the error names, which is one of the damaged ones; its place is named, too. */
  function expectNamed({ code, json }: CliResult, damaged: readonly number[]): number {
    const { error } = json as { error: { code: string; message: string } };
    expect({ code, error: error.code }).toEqual({ code: 13, error: 'EXTENT_DAMAGED' });
    const [, extent, offset] = /^extent (\d+) of web\/1 \(\d+ bytes at offset (\d+) of "pack-\w+"\)/.exec(
      error.message,
    )!;
    expect(damaged).toContain(Number(extent));
    expect(reader.extentInfo(Number(extent)).offset).toBe(Number(offset));
    return Number(extent);
  }

  /** `ps` says it, the transfer's record says it, and nothing of the damaged extents is in the guest's memory. */
  async function expectHalted(damaged: readonly number[]): Promise<void> {
    const folder = new VmFolder('web');
    expect(folder.readTransfer()).toMatchObject({ status: 'damaged', error: { code: 'EXTENT_DAMAGED' } });
    const { vms } = (await startCli(['--json', 'ps']).ended).json as { vms: VmSummary[] };
    expect(vms).toMatchObject([{ name: 'web', status: 'damaged', error: { code: 'EXTENT_DAMAGED' } }]);
    expect(readFileSync(folder.file('transfer.log'), 'utf8')).not.toContain('migrate-pause failed');
    const memory = GuestMemory.open({ pid: vms[0]!.qemuPid!, ramBytes: guest.ramBytes });
    const installed = damaged.flatMap((extent) =>
      pagesOf.get(extent)!.filter((page) => memory.isPresent(page * PAGE_BYTES)),
    );
    expect(installed).toEqual([]);
    // The other way round: the looking is not blind.
    const sound = [...pagesOf.keys()].filter((extent) => !damaged.includes(extent));
    expect(sound.some((extent) => memory.isPresent(pagesOf.get(extent)![0]! * PAGE_BYTES))).toBe(true);
    memory.close();
  }

  it('halts the VM when the guest needs a damaged page', async () => {
    // The guest's busiest memory lies at the top, which the background comes to last.
    const extents = [...pagesOf.keys()];
    const damaged = new Set(
      extents.filter((extent) => pagesOf.get(extent)![0]! * PAGE_BYTES > guest.ramBytes * 0.6),
    );
    damage([...damaged]);
    let result = await restore();
    // What QEMU needs to load its devices is wanted before the VM runs: then there is no VM.
    for (let healed = 0; !existsSync(new VmFolder('web').directory) && healed < MAX_HEALED; healed++) {
      const wanted = expectNamed(result, [...damaged]);
      flip([wanted]);
      damaged.delete(wanted);
      result = await restore();
    }
    expectNamed(result, [...damaged]);
    await expectHalted([...damaged]);
    const console = await Console.connect(guest.consoleSocket);
    await expect(console.nextHeartbeat(SILENCE_MS)).rejects.toMatchObject({ code: 'TIMEOUT' });
    console.close();
  });

  it('halts the VM when the background comes to a damaged extent', async () => {
    const wanted = await wantedEarly();
    expect(wanted.size).toBeGreaterThan(0);
    const extents = [...pagesOf.keys()].filter((extent) => !wanted.has(extent));
    const damaged = [extents[Math.floor(extents.length / 2)]!];
    damage(damaged);
    const halted = await restore();
    expectNamed(halted, damaged);
    await expectHalted(damaged);
    // It has to be ended before another generation can have its name.
    expect(halted.json).toMatchObject({
      error: { hint: expect.stringContaining('vmckpt stop web') as string },
    });
    expect((await startCli(['ps']).ended).stderr).toContain('vmckpt stop web');
  });

  it('does not begin an eager restore of a damaged extent', async () => {
    const damaged = [[...pagesOf.keys()].at(-1)!];
    damage(damaged);
    expectNamed(await restore('--mode', 'eager'), damaged);
    expect(existsSync(new VmFolder('web').directory)).toBe(false);
  });

  it('does not begin when the device state is damaged', async () => {
    cpSync(storeDir, damagedStore, { recursive: true });
    const file = openSync(path.join(damagedStore, 'web/1/device-state'), 'r+');
    writeSync(file, Buffer.from('x'), 0, 1, 1000);
    closeSync(file);
    const { code, json } = await restore();
    expect({ code, json }).toMatchObject({ code: 13, json: { error: { code: 'DEVICE_STATE_DAMAGED' } } });
    expect(existsSync(new VmFolder('web').directory)).toBe(false);
  });
});
