import { afterEach, expect, it, describe } from 'vitest';
import { QmpClient } from '../../src/qemu/qmp.js';
import { BARE_WHOLE, examineBare, nextSweep, startBare } from '../support/bare.js';
import {
  examineGuest,
  restoreGuest,
  saveGuest,
  stopRestored,
  useOwnFolders,
} from '../support/checkpointing.js';
import { startGuest, type Guest, type GuestOptions } from '../support/guest.js';
import { describeOnEachQemu, describeOnQemu10, describeOnQemu11, suiteDirectory } from '../support/vitest.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };

/** Boots, saves with `method`, ends and restores a guest; returns what it finds of itself. */
async function roundTrip(
  { storeDir, ...options }: GuestOptions & { storeDir: string },
  method: 'background-snapshot' | 'precopy' = 'background-snapshot',
) {
  const guest = await startGuest(options);
  await guest.waitReady();
  const before = await guest.console.nextHeartbeat();
  const saved = await saveGuest(guest, { storeDir, name: 'machine', method });
  await guest.stop();
  const restored = await restoreGuest(guest, {
    storeDir,
    reference: 'machine',
    qemu: options.qemu ?? 'system',
  });
  return { saved, findings: await examineGuest(restored.console, before) };
}

describe('a lazy restore brings back', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it.each([
    ['an i440fx machine', { machine: 'pc' }],
    ['two vCPUs', { smp: 2 }],
    ['two NUMA memory backends', { numaNodes: 2 }],
    ['more than 4 GiB, mapped in two places', { ramMb: 5120, fillMb: 128 }],
  ] as const)('%s', async (_title, options) => {
    const { findings } = await roundTrip({ dir, storeDir, fillMb: 64, ...options });
    expect(findings).toEqual(WHOLE);
  });
});

describeOnQemu10('iterative pre-copy', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it('saves a VM that keeps writing, in several passes, without losing a write', async () => {
    const { saved, findings } = await roundTrip({ dir, storeDir, qemu: '10' }, 'precopy');
    expect(saved.iterations).toBeGreaterThan(1);
    expect(findings).toEqual(WHOLE);
  });
});

describeOnQemu11('a Linux guest with a disk, a network and a balloon', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it.each(['background-snapshot', 'precopy'] as const)('is whole when it is saved by %s', async (method) => {
    const { findings } = await roundTrip({ dir, storeDir, fillMb: 64, qemu: '11' }, method);
    expect(findings).toEqual(WHOLE);
  });
});

/** As years of upgrades do; the firmware of each is another one, too. */
describeOnQemu11('an old machine type, saved and restored from QEMU to QEMU, at last', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it.each(['pc-q35-7.2', 'pc-i440fx-7.2'])('%s is whole', async (machine) => {
    const devices = ['virtio-net-pci,netdev=net', 'virtio-rng-pci', 'virtio-balloon-pci', 'qemu-xhci'];
    const extraArgs = ['-netdev', 'user,id=net', ...devices.flatMap((device) => ['-device', device])];
    const guest = await startBare({ dir, machine, extraArgs });
    let before = await nextSweep(guest.console);
    await saveGuest(guest, { storeDir, name: machine });
    await guest.stop();
    for (const qemu of ['10', '11'] as const) {
      const restored = await restoreGuest(guest, { storeDir, reference: machine, qemu });
      expect(await examineBare(restored.console, before)).toEqual(BARE_WHOLE);
      before = await nextSweep(restored.console);
      await saveGuest(guest, { storeDir, name: machine });
      await restored.stop();
    }
    const last = await restoreGuest(guest, { storeDir, reference: machine, qemu: '11' });
    expect(await examineBare(last.console, before)).toEqual(BARE_WHOLE);
  });
});

describeOnEachQemu('a paused VM', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  async function isRunning(qmpSocket: string): Promise<boolean> {
    const qmp = await QmpClient.connect({ path: qmpSocket });
    const { running } = (await qmp.execute('query-status')) as { running: boolean };
    await qmp.close();
    return running;
  }

  it('stays paused when it is saved, is restored paused, and with run: true runs', async () => {
    const guest: Guest = await startGuest({ dir, qemu, fillMb: 64 });
    await guest.waitReady();
    const qmp = await QmpClient.connect({ path: guest.qmpSocket });
    await qmp.execute('stop');
    await qmp.close();
    expect(await saveGuest(guest, { storeDir, name: 'paused' })).toMatchObject({ pauseMs: 0 });
    expect(await isRunning(guest.qmpSocket)).toBe(false);
    await guest.stop();
    const place = { storeDir, reference: 'paused', qemu };
    for (const mode of ['lazy', 'eager'] as const) {
      const paused = await restoreGuest(guest, { ...place, mode });
      expect(paused.report.resumeMs).toBeNull();
      expect(await isRunning(guest.qmpSocket)).toBe(false);
      await paused.stop();
    }
    const running = await restoreGuest(guest, { ...place, run: true });
    expect(await examineGuest(running.console, guest.console.last)).toEqual(WHOLE);
  });
});

describe('a VM that cannot be saved safely', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);

  it('is refused with the reason: lossy pre-copy, writable disks; and runs on', async () => {
    const scratch = [
      '-drive',
      'id=scratch,file=null-co://,format=raw,if=none',
      '-device',
      'virtio-blk-pci,drive=scratch',
    ];
    const guest = await startGuest({ dir, fillMb: 64, extraArgs: scratch });
    await guest.waitReady();
    const place = { storeDir, name: 'refused' };
    await expect(saveGuest(guest, place)).rejects.toMatchObject({
      code: 'DISKS_WRITABLE',
      hint: expect.stringContaining('--quit --disks external') as string,
    });
    if (await losesWrites(guest)) {
      const lossy = saveGuest(guest, { ...place, disksExternal: true, method: 'precopy' });
      await expect(lossy).rejects.toMatchObject({ code: 'QEMU_UNSUPPORTED' });
    }
    expect((await guest.console.nextHeartbeat()).bad).toBe(0);
    await guest.stop();
  });
});

/** In pre-copy: QEMU before version 10, with software emulation. */
async function losesWrites({ qmpSocket }: Guest): Promise<boolean> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  await qmp.close();
  return qmp.version.major < 10;
}
