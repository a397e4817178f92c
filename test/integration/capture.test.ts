/** Saves that read a running VM from outside: they hold what a migration of it would, whatever it does meanwhile. */
import { existsSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Accelerator } from '../../src/bench/guest.js';
import { bestTracker } from '../../src/capture/open-tracker.js';
import { locateRamBlocks } from '../../src/capture/ram-blocks.js';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { findLeftovers } from '../../src/doctor/leftovers.js';
import { readRamBlocks } from '../../src/qemu/compatibility.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { rescue } from '../../src/save/rescue.js';
import type { ParkingPoint } from '../../src/util/park.js';
import { BARE_WHOLE, examineBare, nextSweep, nextSweeps, startBare } from '../support/bare.js';
import type { QemuChoice } from '../support/cache.js';
import { restoreGuest, saveGuest, stopRestored, useOwnFolders } from '../support/checkpointing.js';
import { startCli, type RunningCli } from '../support/command.js';
import { settingsOf, storeProblems, untilParked } from '../support/faults.js';
import {
  describeOnEachQemu,
  describeOnQemu11,
  describeUnderKvm,
  suiteDirectory,
  skipWithoutTracker,
} from '../support/vitest.js';
import { startTinyVm, type TinyVm } from '../support/tiny-vm.js';

const { kind } = bestTracker();
skipWithoutTracker();

const CAPTURES = 3;
/** Small blocks of all kinds: video memory, ROMs of cards, ACPI tables that may grow. */
const BLOCKS = ['-vga', 'std', '-device', 'e1000', '-device', 'virtio-net'];

function onEveryQemu(title: string, suite: (qemu: QemuChoice) => void): void {
  describeOnEachQemu(title, suite);
  describeOnQemu11(title, () => suite('11'));
}

onEveryQemu('a VM that is captured', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  let vm: TinyVm;
  /** The saves have it; the tests ask through the other one. */
  let monitor: string;
  beforeEach(async () => {
    rmSync(storeDir, { recursive: true, force: true });
    monitor = path.join(dir, 'second.sock');
    vm = startTinyVm({ qemu, dir, args: [...BLOCKS, '-qmp', `unix:${monitor},server=on,wait=off`] });
    await vm.untilFirmware();
  });

  it('has its RAM blocks where its monitor says, and all that a migration sends', async () => {
    await vm.save({ storeDir, name: 'held', method: 'stopped' });
    const { ram } = readManifest(path.join(storeDir, 'held', '1'));
    const qmp = await QmpClient.connect({ path: vm.qmpSocket });
    try {
      const { blocks: located } = await locateRamBlocks(qmp, qmp.peerPid());
      expect(located.map(({ name, usedBytes }) => ({ name, usedBytes }))).toEqual(ram.blocks);
      const told = (await readRamBlocks(qmp)).map(({ hostAddress }) => hostAddress);
      expect(told.every((address) => address === undefined)).toBe(qemu === 'system');
      if (qemu !== 'system') expect(located.map(({ hostAddress }) => hostAddress)).toEqual(told);
    } finally {
      await qmp.close();
    }
  });

  it('gives what a held migration of it gives', async () => {
    const report = await vm.save({ storeDir, name: 'tiny', method: 'capture' });
    expect(report).toMatchObject({ method: 'capture', capture: { roundTrips: 2 } });
    expect(await vm.status()).toBe('running');
    await vm.save({ storeDir, name: 'tiny', method: 'stopped' });
    const [captured, held] = [1, 2].map((number) => readManifest(path.join(storeDir, 'tiny', `${number}`)));
    const { configuration, description } = held!.migration;
    expect(captured).toMatchObject({
      mode: 'capture',
      runState: 'running',
      migration: { configuration, description },
    });
    expect(captured!.ram).toEqual(held!.ram);
  });

  it('is as it was, and has nothing of ours in it', async () => {
    const before = await settingsOf(vm.qmpSocket);
    await vm.save({ storeDir, name: 'tiny', method: 'capture' });
    expect(await vm.ask('query-fdsets')).toEqual([]);
    expect(await settingsOf(vm.qmpSocket)).toEqual(before);
    // Which a memory that is still watched would not let it do.
    await vm.save({ storeDir, name: 'tiny', method: 'background-snapshot' });
  });

  it('may be in a sandbox', async () => {
    const sandbox = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny';
    const inSandbox = startTinyVm({ qemu, dir, args: ['-sandbox', sandbox] });
    await inSandbox.untilStatus('running');
    const report = await inSandbox.save({ storeDir, name: 'sandbox', method: 'capture' });
    expect(report).toMatchObject({ method: 'capture', capture: { tracker: kind } });
    expect(await inSandbox.status()).toBe('running');
  });

  it('stays paused when somebody pauses it while its memory is read', async () => {
    const save = await startParked('streaming', monitor, storeDir);
    await vm.ask('stop');
    process.kill(save.pid, 'SIGCONT');
    expect(await save.ended).toMatchObject({ code: 0, json: { method: 'capture', pauseMs: 0 } });
    expect(await vm.status()).toBe('paused');
    expect(readManifest(path.join(storeDir, 'tiny', '1')).runState).toBe('paused');
  });

  it('goes on with a migration that another program begins meanwhile', async () => {
    const save = await startParked('streaming', monitor, storeDir);
    await vm.ask(
      ['migrate-set-parameters', { 'max-bandwidth': 4096 }],
      ['migrate', { uri: 'exec:cat > /dev/null' }],
    );
    process.kill(save.pid, 'SIGCONT');
    expect(await save.ended).toMatchObject({ code: 0, json: { method: 'capture' } });
    expect(await vm.ask('query-migrate')).toMatchObject({ status: 'active' });
  });

  it.each([
    ['let run', 'cont', 'running'],
    ['reset', 'system_reset', 'prelaunch'],
  ])('runs, and is not saved, when it is %s in the pause', async (_, command, status) => {
    const save = await startParked('paused', monitor, storeDir);
    await vm.ask(command);
    await vm.untilStatus(status);
    process.kill(save.pid, 'SIGCONT');
    expect(await save.ended).toMatchObject({ code: 1, json: { error: { code: 'VM_STATE' } } });
    expect(await vm.status()).toBe('running');
    expect(existsSync(path.join(storeDir, 'tiny', '1'))).toBe(false);
    await vm.save({ storeDir, name: 'tiny', method: 'capture' });
  });

  it('runs again after kill -9 in the pause and a reset, and the next save tells of it', async () => {
    const save = await startParked('paused', monitor, storeDir);
    save.kill();
    await save.ended;
    await vm.ask('system_reset');
    await vm.untilStatus('prelaunch');
    const messages: string[] = [];
    const onMessage = (text: string) => void messages.push(text);
    await vm.save({ storeDir, name: 'tiny', method: 'capture', onMessage });
    expect(await vm.status()).toBe('running');
    expect(messages).toContainEqual(expect.stringContaining('it runs again'));
  });

  it.each(['streaming', 'paused', 'committing'] as const)(
    'is not harmed by kill -9 where the save is at "%s", and is saved again',
    async (point) => {
      const save = await startParked(point, monitor, storeDir);
      expect(await vm.status()).toBe(point === 'paused' ? 'paused' : 'running');
      save.kill();
      await save.ended;
      await vm.save({ storeDir, name: 'tiny', method: 'capture' });
      expect(await vm.status()).toBe('running');
      expect(await vm.ask('query-fdsets')).toEqual([]);
      expect(await storeProblems(storeDir)).toEqual([]);
    },
  );

  it('has what a save that was killed has left, which doctor names, and rescue removes', async () => {
    const save = await startParked('streaming', monitor, storeDir);
    save.kill();
    await save.ended;
    // QEMU 7.2 closes it when the monitor is disconnected.
    const [found, remedy] =
      qemu === 'system'
        ? ['its folder is left', 'rm -r ']
        : ['QEMU has a descriptor', `vmckpt rescue ${vm.pid} --qmp`];
    expect(await findLeftovers(path.join(dir, 'none'))).toMatchObject([
      {
        found: expect.stringContaining(found) as string,
        remedy: expect.stringContaining(remedy) as string,
      },
    ]);
    const { signal } = new AbortController();
    await rescue({ pid: vm.pid, qmpSocket: monitor, onMessage: () => undefined, signal });
    expect(await vm.ask('query-fdsets')).toEqual([]);
    expect(await findLeftovers(path.join(dir, 'none'))).toMatchObject([{ found: 'none' }]);
  });

  it.each(['streaming', 'paused'] as const)(
    'lets a save at "%s" fail by name when QEMU is killed',
    async (point) => {
      const save = await startParked(point, monitor, storeDir);
      await vm.end();
      process.kill(save.pid, 'SIGCONT');
      expect(await save.ended).toMatchObject({ code: 1, json: { error: { code: 'QEMU_DIED' } } });
      expect(await storeProblems(storeDir)).toEqual([]);
    },
  );

  it('is saved by one save at a time', async () => {
    const save = await startParked('streaming', monitor, storeDir);
    const second = vm.save({ storeDir, name: 'other', method: 'capture' });
    await expect(second).rejects.toMatchObject({ code: 'VM_BUSY' });
    process.kill(save.pid, 'SIGCONT');
    expect(await save.ended).toMatchObject({ code: 0 });
  });
});

/** It goes no further before it gets SIGCONT. */
async function startParked(point: ParkingPoint, monitor: string, storeDir: string): Promise<RunningCli> {
  const args = ['--json', '--store', storeDir, 'save', `qmp:${monitor}`, 'tiny'];
  const save = startCli(args, { env: { VMCKPT_PARK: point } });
  await untilParked(save, point);
  return save;
}

describeOnEachQemu('a guest that rewrites its memory', (qemu) => testRewriting(qemu, 'tcg'));
describeUnderKvm('a guest that rewrites its memory', (qemu) => testRewriting(qemu, 'kvm'));

function testRewriting(qemu: QemuChoice, accel: Accelerator): void {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it('is whole when it was captured, again and again', async () => {
    const guest = await startBare({ dir, qemu, accel, words: 'pause=1' });
    let before = await nextSweeps(guest);
    for (let count = 0; count < CAPTURES; count++) {
      before = await nextSweeps(guest);
      await saveGuest(guest, { storeDir, name: 'bare', method: 'capture', maxPauseMs: 1 });
    }
    await nextSweeps(guest);
    await guest.stop();
    for (let generation = CAPTURES; generation > 0; generation--) {
      const restored = await restoreGuest(guest, { storeDir, reference: `bare@${generation}`, qemu });
      if (generation === CAPTURES)
        for (const sweep of before) expect(await examineBare(restored.console, sweep)).toEqual(BARE_WHOLE);
      else expect(await nextSweep(restored.console)).toMatchObject({ bad: 0, code: true, dma: true });
      await restored.stop();
    }
  });
}
