import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { QmpClient } from '../../src/qemu/qmp.js';
import { readMigrationSettings } from '../../src/qemu/migration-control.js';
import {
  examineGuest,
  restoreGuest,
  saveGuest,
  stopRestored,
  useOwnFolders,
} from '../support/checkpointing.js';
import type { Heartbeat } from '../support/console.js';
import { startGuest, type Guest } from '../support/guest.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { countWrongValues, httpFileIntact, loadMemcached } from '../support/workloads.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };

describeOnEachQemu('a running guest, saved and brought back,', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const place = { storeDir, name: 'web' };
  let guest: Guest;
  /** The guest's count before its first save. */
  let before: Heartbeat;
  let load: { port: number; keyCount: number; valueBytes: number };

  beforeAll(async () => {
    guest = await startGuest({ dir, qemu });
    await guest.waitReady();
    load = { port: guest.ports.memcached, keyCount: 500, valueBytes: 4000 };
    await loadMemcached(load);
    before = await guest.console.nextHeartbeat();
  });
  afterEach(stopRestored);
  afterAll(async () => guest.stop());

  it('runs on after a live save, with the migration settings that it had', async () => {
    const qmp = await QmpClient.connect({ path: guest.qmpSocket });
    const settings = await readMigrationSettings(qmp);
    await qmp.close();
    const report = await saveGuest(guest, place);
    expect(report).toMatchObject({ name: 'web', generation: 1, iterations: 1 });
    expect(report.pauseMs).toBeGreaterThan(0);
    expect(report.storedBytes).toBeLessThan(report.nonZeroBytes * 0.6);
    const { n } = guest.console.last!;
    expect((await guest.console.nextHeartbeat()).n).toBeGreaterThanOrEqual(n);
    const after = await QmpClient.connect({ path: guest.qmpSocket });
    expect(await readMigrationSettings(after)).toEqual(settings);
    await after.close();
  });

  it('can be saved again, stopped, and stays paused until it is continued', async () => {
    expect(await saveGuest(guest, { ...place, method: 'stopped' })).toMatchObject({ generation: 2 });
    const qmp = await QmpClient.connect({ path: guest.qmpSocket });
    expect(await qmp.execute('query-status')).toMatchObject({ running: false });
    await qmp.close();
    const again = await saveGuest(guest, { ...place, method: 'stopped' });
    expect(again).toMatchObject({ generation: 3, pauseMs: 0 });
  });

  it('refuses to be restored while the original runs', async () => {
    const attempt = restoreGuest(guest, { storeDir, reference: 'web', qemu });
    await expect(attempt).rejects.toMatchObject({ code: 'COLLISION' });
  });

  it.each([
    ['lazily from the live save', 'web@1', 'lazy', 'direct'],
    ['lazily from the stopped save', 'web@2', 'lazy', 'direct'],
    ['lazily through the stream', 'web@1', 'lazy', 'stream'],
    ['eagerly from the live save', 'web@1', 'eager', 'direct'],
    ['eagerly from the stopped save', 'web@2', 'eager', 'direct'],
    ['eagerly through the stream', 'web@1', 'eager', 'stream'],
  ] as const)('finds itself whole when restored %s', async (_title, reference, mode, path) => {
    await guest.stop();
    const restored = await restoreGuest(guest, { storeDir, reference, mode, path, qemu });
    expect(restored.report).toMatchObject({ name: 'web', mode, path, recoveries: 0 });
    expect(restored.report.resumeMs).toBeGreaterThan(0);
    expect(restored.report.completeMs).toBeGreaterThanOrEqual(
      mode === 'lazy' ? restored.report.resumeMs! : 0,
    );
    expect(await examineGuest(restored.console, before)).toEqual(WHOLE);
    expect(await countWrongValues(load)).toBe(0);
    expect(await httpFileIntact(guest.ports.http)).toBe(true);
  });

  it('can be saved after a lazy restore, and restored from that', async () => {
    const first = await restoreGuest(guest, { storeDir, reference: 'web@1', qemu });
    expect(await saveGuest(guest, place)).toMatchObject({ generation: 4 });
    await first.stop();
    const second = await restoreGuest(guest, { storeDir, reference: 'web@4', qemu });
    expect(await examineGuest(second.console, before)).toEqual(WHOLE);
  });
});
