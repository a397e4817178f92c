/** VMs in states other than running: what a save says to them, and what a restore gives back. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { readManifest } from '../../src/checkpoint/manifest.js';
import type { RestoreOptions } from '../../src/restore/attempt.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { restoreSilently } from '../support/checkpointing.js';
import { qemuBinary } from '../support/cache.js';
import { killAndWait, killAtExit } from '../support/processes.js';
import { BACKSTOP_MS } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { openInput } from '../../src/interchange/files.js';
import { exportTo, importPieces } from '../unit/interchange/machines.js';
import { bootSector } from '../support/boot-sectors.js';
import { startTinyVm, type TinyVm } from '../support/tiny-vm.js';

/** Reading it stops the VM, as rerror=stop has it. */
const BROKEN_DISK = [
  '-blockdev',
  '{"driver":"blkdebug","node-name":"broken","image":{"driver":"null-co","size":1048576},"inject-error":[{"event":"none","errno":5}],"read-only":true}',
  '-device',
  'virtio-blk-pci,drive=broken,rerror=stop',
];

describeOnEachQemu('the state of a VM', (qemu) => {
  const dir = suiteDirectory();
  let storeDir: string;
  let restored: number | undefined;
  beforeEach(({ task }) => {
    storeDir = path.join(dir, task.id);
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
  });
  afterEach(async () => {
    if (restored !== undefined) await killAndWait(restored);
    restored = undefined;
  });

  const start = (...args: string[]) => startTinyVm({ qemu, dir, args });

  /** The VM's state and the store are as before. */
  async function expectRefused(vm: TinyVm, status: string): Promise<void> {
    await vm.untilStatus(status);
    for (const method of ['background-snapshot', 'stopped'] as const)
      await expect(vm.save({ storeDir, name: 'tiny', method })).rejects.toMatchObject({
        code: 'VM_STATE',
        message: expect.stringContaining(`(${status}`) as string,
      });
    expect(await vm.status()).toBe(status);
    expect(existsSync(storeDir)).toBe(false);
  }

  async function restoreTiny(options: Partial<RestoreOptions> = {}) {
    const messages: string[] = [];
    const { qemuPid, qmpSocket } = await restoreSilently({
      storeDir,
      reference: 'tiny',
      qemuBinary: qemuBinary(qemu),
      onMessage: (text) => messages.push(text),
      ...options,
    });
    killAtExit((restored = qemuPid!));
    const qmp = await QmpClient.connect({ path: qmpSocket });
    return { qmp, messages };
  }

  const statusOf = async (qmp: QmpClient) =>
    ((await qmp.execute('query-status')) as { status: string }).status;

  it('that has never run, or is still being loaded, is refused', async () => {
    await expectRefused(start('-S'), 'prelaunch');
    await expectRefused(start('-incoming', 'defer'), 'inmigrate');
  });

  it('that shut down or panicked is refused, and what the hint says brings it up again', async () => {
    const off = start(...bootSector(dir, 'powerOff'), '-no-shutdown');
    await expectRefused(off, 'shutdown');
    await off.ask('system_reset');
    await off.untilStatus('prelaunch');
    await off.ask('cont');

    const panicked = start(...bootSector(dir, 'panic'), '-device', 'pvpanic', '-action', 'panic=pause');
    await expectRefused(panicked, 'guest-panicked');
    await panicked.ask('system_reset');
    await panicked.untilStatus('prelaunch');
  });

  it('that was migrated elsewhere is refused', async () => {
    const vm = start();
    await vm.ask('stop', ['migrate', { uri: 'exec:cat >/dev/null' }]);
    await expectRefused(vm, 'postmigrate');
  });

  it('that an I/O error has stopped is saved as such, and restored as such with a word about it', async () => {
    const vm = start(...BROKEN_DISK);
    await vm.untilStatus('io-error');
    await vm.save({ storeDir, name: 'tiny' });
    expect(await vm.status()).toBe('io-error');
    expect(readManifest(path.join(storeDir, 'tiny', '1'))).toMatchObject({
      runState: 'paused',
      vmState: 'io-error',
    });
    await vm.end();
    const { qmp, messages } = await restoreTiny({ vmName: 'broken' });
    expect(await statusOf(qmp)).toBe('io-error');
    expect(messages.join()).toContain('an I/O error had stopped it');
    await qmp.close();
  });

  it.runIf(qemu === 'system')('that sleeps is refused by a QEMU that would lose its sleep', async () => {
    const vm = start(...bootSector(dir, 'sleep'));
    await expectRefused(vm, 'suspended');
  });

  it.runIf(qemu === '10').each(['eager', 'lazy'] as const)(
    'that sleeps is saved asleep, and a restore (%s) gives it back asleep until it is woken',
    async (mode) => {
      const vm = start(...bootSector(dir, 'sleep'));
      await vm.untilStatus('suspended');
      await vm.save({ storeDir, name: 'tiny' });
      expect(await vm.status()).toBe('suspended');
      await vm.save({ storeDir, name: 'tiny', method: 'stopped' });
      expect(await vm.status()).toBe('paused');
      await vm.ask('cont');
      expect(await vm.status()).toBe('suspended');
      await vm.end();
      for (const reference of ['tiny@1', 'tiny@2']) {
        const { qmp, messages } = await restoreTiny({
          mode,
          reference,
          vmName: `asleep-${reference}`.replace('@', '-'),
        });
        expect(await statusOf(qmp)).toBe('suspended');
        expect(messages.join()).toContain('system_wakeup');
        const awake = qmp.waitForEvent(['WAKEUP'], { timeoutMs: BACKSTOP_MS });
        await qmp.execute('system_wakeup');
        await awake;
        await qmp.close();
        await killAndWait(restored!);
      }
    },
  );

  it('comes with an export, however the VM was saved', async () => {
    const vm = start();
    await vm.untilFirmware();
    const exportedState = async (generation: number) => {
      const file = path.join(dir, `exported-${generation}`);
      await exportTo(file, { storeDir, reference: `tiny@${generation}` });
      await importPieces([], { storeDir, name: 'imported', input: await openInput(file) });
      return readManifest(path.join(storeDir, 'imported', String(generation))).runState;
    };
    const methods = ['background-snapshot', 'stopped', 'stopped'] as const;
    const states: string[] = [];
    for (const [index, method] of methods.entries()) {
      await vm.save({ storeDir, name: 'tiny', method });
      states.push(await exportedState(index + 1));
    }
    // The second save has left it paused.
    expect(states).toEqual(['running', 'running', 'paused']);
  });

  it('is that of the instant that was saved, not of the look before', async () => {
    const vm = start();
    await vm.untilFirmware();
    await vm.save({ storeDir, name: 'tiny' });
    expect(readManifest(path.join(storeDir, 'tiny', '1'))).toMatchObject({ runState: 'running' });
    await vm.ask('stop');
    await vm.save({ storeDir, name: 'tiny' });
    expect(readManifest(path.join(storeDir, 'tiny', '2'))).toMatchObject({ runState: 'paused' });
  });
});
