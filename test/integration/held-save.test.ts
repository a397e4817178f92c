/** Saves of a VM that stands still: they leave it as it was, whatever becomes of them. */
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, expect, it } from 'vitest';
import { checkCheckpoint } from '../../src/checkpoint/check.js';
import type { MigrationSettings } from '../../src/qemu/migration-control.js';
import { Store } from '../../src/store/store.js';
import { startCli } from '../support/command.js';
import { chooseSeed, Random, settingsOf } from '../support/faults.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { startTinyVm, type TinyVm } from '../support/tiny-vm.js';

const KILLS = 4;
const SAVE_MS = 900;

describeOnEachQemu('a paused VM', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = path.join(dir, 'store');
  let vm: TinyVm;
  let settings: MigrationSettings;
  beforeEach(async () => {
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
    rmSync(storeDir, { recursive: true, force: true });
    vm = startTinyVm({ qemu, dir, args: DISK });
    await vm.untilFirmware();
    await vm.ask('stop');
    settings = await settingsOf(vm.qmpSocket);
  });

  const DISK = [
    '-blockdev',
    'driver=null-co,node-name=disk,read-only=on',
    '-device',
    'virtio-blk,drive=disk',
  ];

  async function expectAsBefore(): Promise<void> {
    expect(await vm.status()).toBe('paused');
    expect(await settingsOf(vm.qmpSocket)).toEqual(settings);
    const nodes = await vm.ask<{ 'node-name': string }[]>('query-named-block-nodes');
    expect(nodes.map((node) => node['node-name'])).toEqual(['disk']);
  }

  async function generations(): Promise<number[]> {
    return [...(await (await Store.open(storeDir)).generations('tiny'))];
  }

  it('is saved as often as one likes, always as the same VM, and stays paused', async () => {
    const first = await vm.save({ storeDir, name: 'tiny' });
    await expectAsBefore();
    const second = await vm.save({ storeDir, name: 'tiny', method: 'precopy' });
    await expectAsBefore();
    expect(second).toMatchObject({ nonZeroBytes: first.nonZeroBytes, pauseMs: 0 });
    // Neither is anything of the saves before taken for a change of the VM, for which this one would be refused.
    await vm.save({ storeDir, name: 'tiny', method: 'stopped' });
    await expectAsBefore();
    expect(await generations()).toEqual([1, 2, 3]);
    for (const generation of [1, 2, 3])
      expect(await checkCheckpoint(path.join(storeDir, 'tiny', `${generation}`))).toMatchObject({
        problems: [],
      });
    await vm.ask('cont');
    expect(await vm.status()).toBe('running');
  });

  it('is as it was when its save fails at the very end, and is then saved', async () => {
    const inTheWay = path.join(storeDir, 'tiny', '1', 'in-the-way');
    const onProgress = () => mkdirSync(inTheWay, { recursive: true });
    await expect(vm.save({ storeDir, name: 'tiny', onProgress })).rejects.toMatchObject({ code: 'FAILED' });
    await expectAsBefore();
    rmSync(storeDir, { recursive: true });
    await vm.save({ storeDir, name: 'tiny' });
    await expectAsBefore();
    expect(await generations()).toEqual([1]);
  });

  it('is not ended by --quit when its save fails', async () => {
    const inTheWay = path.join(storeDir, 'tiny', '1', 'in-the-way');
    const onProgress = () => mkdirSync(inTheWay, { recursive: true });
    const failed = vm.save({ storeDir, name: 'tiny', quit: true, method: 'stopped', onProgress });
    await expect(failed).rejects.toMatchObject({ code: 'FAILED' });
    await expectAsBefore();
  });

  it('is as it was when its save is killed, and the next one puts the rest right', async () => {
    const random = new Random(chooseSeed());
    console.info(`VMCKPT_SEED=${random.seed}`);
    for (let kill = 0; kill < KILLS; kill++) {
      const save = startCli(['--json', '--store', storeDir, 'save', `qmp:${vm.qmpSocket}`, 'tiny']);
      await random.pause(SAVE_MS);
      save.kill();
      await save.ended;
      expect(await vm.status()).toBe('paused');
    }
    await vm.save({ storeDir, name: 'tiny' });
    await expectAsBefore();
  });
});
