/** What takes part in the instant of a save: it is asked while the VM stands still, in every way out. */
import path from 'node:path';
import * as v from 'valibot';
import { beforeEach, expect, it } from 'vitest';
import { QmpClient } from '../../src/qemu/qmp.js';
import { Store } from '../../src/store/store.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { startTinyVm, type TinyVm } from '../support/tiny-vm.js';

describeOnEachQemu('what takes part in a save', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = path.join(dir, 'store');
  let vm: TinyVm;
  /** Of its own: the save has the other one. */
  let monitor: string;
  beforeEach(async () => {
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
    monitor = path.join(dir, 'second.sock');
    vm = startTinyVm({ qemu, dir, args: ['-qmp', `unix:${monitor},server=on,wait=off`] });
    await vm.untilFirmware();
  });

  async function status(): Promise<string> {
    const qmp = await QmpClient.connect({ path: monitor });
    try {
      return (await qmp.query(v.object({ status: v.string() }), 'query-status')).status;
    } finally {
      await qmp.close();
    }
  }

  /** Notes when it was asked, and how the VM was then. */
  function participant(steps: string[], failure?: Error) {
    const note = async (step: string) => void steps.push(`${step}: ${await status()}`);
    return {
      prepare: () => note('prepare'),
      capture: async () => {
        await note('capture');
        if (failure !== undefined) throw failure;
      },
      release: () => note('release'),
    };
  }

  it('is captured while the VM stands still, which runs on then', async () => {
    const steps: string[] = [];
    const messages: string[] = [];
    const participants = [participant(steps)];
    const onMessage = (text: string) => messages.push(text);
    await vm.save({ storeDir, name: 'live', participants, onMessage });
    expect(steps).toEqual(['prepare: running', 'capture: paused', 'release: running']);
    expect(messages.join()).toContain('captured at the same instant');
  });

  it('is captured between the last pass of pre-copy and its end, or not asked where that is refused', async () => {
    const steps: string[] = [];
    const options = {
      storeDir,
      name: 'precopy',
      method: 'precopy',
      participants: [participant(steps)],
    } as const;
    if (qemu === 'system') {
      await expect(vm.save(options)).rejects.toMatchObject({ code: 'QEMU_UNSUPPORTED' });
      expect(steps).toEqual([]);
      return;
    }
    await vm.save(options);
    expect(steps).toEqual([
      'prepare: running',
      expect.stringMatching(/^capture: (paused|finish-migrate)$/),
      'release: running',
    ]);
  });

  it('fails the save where it fails, and the VM runs on', async () => {
    const steps: string[] = [];
    const participants = [participant(steps, new Error('no room for the snapshot'))];
    await expect(vm.save({ storeDir, name: 'failed', participants })).rejects.toThrow(
      'no room for the snapshot',
    );
    expect(steps).toEqual(['prepare: running', 'capture: paused', 'release: running']);
    expect(await vm.status()).toBe('running');
    expect(await (await Store.open(storeDir)).generations('failed')).toEqual([]);
  });
});
