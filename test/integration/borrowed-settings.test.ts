/** Migration settings that somebody has left: a save works with each of them, and gives it back. */
import path from 'node:path';
import { expect, it } from 'vitest';
import { QmpClient } from '../../src/qemu/qmp.js';
import { Store } from '../../src/store/store.js';
import { checkCheckpoint } from '../../src/checkpoint/check.js';
import { settingsOf } from '../support/faults.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { startTinyVm } from '../support/tiny-vm.js';

/** What a capability needs beside itself. */
const COMPANIONS: Readonly<Record<string, readonly string[]>> = {
  'postcopy-preempt': ['postcopy-ram'],
  'switchover-ack': ['return-path'],
  'zero-copy-send': ['multifd'],
};
/** Switched off for good, since it corrupts saves by others. */
const NOT_GIVEN_BACK = 'background-snapshot';
const PARAMETERS = {
  'max-bandwidth': 4096,
  'downtime-limit': 0,
  'tls-creds': 'nobody',
  'tls-hostname': 'nowhere',
};

describeOnEachQemu('migration settings of others', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = path.join(dir, 'store');
  const METHODS = ['background-snapshot', 'stopped', ...(qemu === '10' ? ['precopy' as const] : [])] as const;

  it('change no save, and are as they were then', async () => {
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
    const vm = startTinyVm({ qemu, dir });
    await vm.untilFirmware();
    const names = Object.keys((await settingsOf(vm.qmpSocket)).capabilities);
    const set = (list: readonly string[], state: boolean) =>
      vm.ask([
        'migrate-set-capabilities',
        { capabilities: list.map((capability) => ({ capability, state })) },
      ]);
    // As many at once as go together; the rest by themselves.
    let rest = names.filter((name) => name !== NOT_GIVEN_BACK);
    for (let on: string[] = rest; on.length > 0; rest = rest.filter((name) => !on.includes(name))) {
      on = [];
      for (const name of rest) {
        // Some need what this QEMU or this host has not.
        const list = [name, ...(COMPANIONS[name] ?? [])];
        const isSet = await set(list, true).then(
          () => true,
          () => false,
        );
        if (isSet) on.push(...list);
      }
      const left = await settingsOf(vm.qmpSocket);
      for (const method of METHODS) {
        await vm.save({ storeDir, name: 'tiny', method });
        if (method === 'stopped') await vm.ask('cont');
        expect(await settingsOf(vm.qmpSocket), `${on.join()}: ${method}`).toEqual(left);
      }
      await set(on, false);
    }
    expect(names.length - rest.length).toBeGreaterThan(10);
    const store = await Store.open(storeDir);
    for (const generation of await store.generations('tiny'))
      expect(await checkCheckpoint(path.join(storeDir, 'tiny', `${generation}`))).toMatchObject({
        problems: [],
      });
  });

  it('that are parameters change no save either', async () => {
    const vm = startTinyVm({ qemu, dir });
    await vm.untilStatus('running');
    const qmp = await QmpClient.connect({ path: vm.qmpSocket });
    await qmp.execute('migrate-set-parameters', PARAMETERS);
    await qmp.close();
    const left = await settingsOf(vm.qmpSocket);
    for (const method of ['background-snapshot', 'stopped'] as const) {
      await vm.save({ storeDir, name: 'parameters', method });
      expect(await settingsOf(vm.qmpSocket)).toEqual(left);
    }
    expect(left.parameters).toMatchObject(PARAMETERS);
  });
});
