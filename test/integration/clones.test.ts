/** Clones of a real guest, side by side. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { QmpClient } from '../../src/qemu/qmp.js';
import type { RestoreReport } from '../../src/restore/report.js';
import { agentArgs, inGuest } from '../support/agent.js';
import {
  examineGuest,
  restoreGuest,
  saveGuest,
  stopRestored,
  useOwnFolders,
  type Restored,
} from '../support/checkpointing.js';
import type { Heartbeat } from '../support/console.js';
import { startGuest, type Guest } from '../support/guest.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { countWrongValues, httpFileIntact, loadMemcached } from '../support/workloads.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };

/** Where the clone has what the original has at `from`. */
function ownOf({ moved }: RestoreReport, from: string): string {
  return moved.find((each) => each.from === from)!.to;
}

function portOf(report: RestoreReport, port: number): number {
  return Number(ownOf(report, `127.0.0.1:${port}`).split(':')[1]);
}

describeOnEachQemu('clones of a guest', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  let guest: Guest;
  let before: Heartbeat;
  let load: { port: number; keyCount: number; valueBytes: number };

  beforeAll(async () => {
    guest = await startGuest({ dir, qemu, fillMb: 64, extraArgs: ['-device', 'vmgenid'] });
    await guest.waitReady();
    load = { port: guest.ports.memcached, keyCount: 100, valueBytes: 4000 };
    await loadMemcached(load);
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'web' });
  });
  afterEach(stopRestored);
  afterAll(async () => guest.stop());

  const clone = async (vmName: string): Promise<Restored> =>
    restoreGuest(guest, { storeDir, reference: 'web', qemu, vmName, identity: 'clone' });

  it('run beside the original, whole, with sockets, ports and generation ids of their own', async () => {
    const clones = await Promise.all(['one', 'two', 'three'].map((name) => clone(name)));
    const ids = new Set<string>();
    for (const { report, console } of clones) {
      expect(await examineGuest(console, before)).toEqual(WHOLE);
      expect(await countWrongValues({ ...load, port: portOf(report, load.port) })).toBe(0);
      expect(await httpFileIntact(portOf(report, guest.ports.http))).toBe(true);
      expect(report.qmpSocket).toBe(ownOf(report, guest.qmpSocket));
      const qmp = await QmpClient.connect({ path: report.qmpSocket });
      expect(qmp.peerPid()).toBe(report.qemuPid);
      const { guid } = await qmp.query(v.object({ guid: v.string() }), 'query-vm-generation-id');
      ids.add(guid);
      await qmp.close();
    }
    expect(ids.size).toBe(clones.length);
    expect(new Set(clones.flatMap(({ report }) => report.moved.map(({ to }) => to))).size).toBe(
      clones.length * clones[0]!.report.moved.length,
    );
    expect(await countWrongValues(load)).toBe(0);
    expect((await guest.console.nextHeartbeat()).bad).toBe(0);
  });

  it('can be saved, and restored in their own place, and cloned again', async () => {
    const first = await clone('one');
    const { qmpSocket } = first.report;
    await saveGuest(guest, { storeDir, name: 'of-clone', vm: `qmp:${qmpSocket}` });
    const saved = { ...guest, consoleSocket: ownOf(first.report, guest.consoleSocket) };
    const place = { storeDir, reference: 'of-clone', qemu };
    const second = await restoreGuest(saved, { ...place, vmName: 'two', identity: 'clone' });
    expect(second.report.qmpSocket).toBe(ownOf(second.report, qmpSocket));
    expect(await examineGuest(second.console, before)).toEqual(WHOLE);
    await second.stop();
    await first.stop();
    const inItsPlace = await restoreGuest(saved, place);
    expect(inItsPlace.report.moved.map(({ what }) => what)).not.toContain('port');
    expect(await examineGuest(inItsPlace.console, before)).toEqual(WHOLE);
  });

  it('are refused under a name that a living VM has', async () => {
    await clone('one');
    await expect(clone('one')).rejects.toMatchObject({ code: 'VM_BUSY' });
    await expect(clone('../one')).rejects.toMatchObject({ code: 'BAD_NAME' });
  });
});

describeOnEachQemu('clones of a guest with a writable disk', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it('write to it each for itself', async () => {
    const image = path.join(dir, 'data.img');
    writeFileSync(image, `original${'\n'.repeat(1 << 20)}`);
    const disk = ['-drive', `file=${image},format=raw,if=virtio`];
    const guest = await startGuest({ dir, qemu, fillMb: 64, extraArgs: [...agentArgs(dir), ...disk] });
    await guest.waitReady();
    const before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'disk', disksExternal: true });
    await guest.stop();
    const content = readFileSync(image);
    const clones = [];
    for (const vmName of ['a', 'b'])
      clones.push(
        await restoreGuest(guest, { storeDir, reference: 'disk', qemu, vmName, identity: 'clone' }),
      );
    const read = 'dd if=/dev/vdb bs=8 count=1 iflag=direct 2>/dev/null || dd if=/dev/vdb bs=8 count=1';
    for (const { report } of clones) {
      const agentSocket = ownOf(report, path.join(dir, 'agent.sock'));
      expect(await inGuest(agentSocket, read)).toBe('original');
      await inGuest(agentSocket, `printf 'clone ${report.vmName} ' | dd of=/dev/vdb conv=notrunc,fsync`);
    }
    for (const { report, console } of clones) {
      const agentSocket = ownOf(report, path.join(dir, 'agent.sock'));
      await inGuest(agentSocket, 'echo 3 >/proc/sys/vm/drop_caches');
      expect(await inGuest(agentSocket, read)).toBe(`clone ${report.vmName}`);
      expect(await examineGuest(console, before)).toEqual(WHOLE);
    }
    expect(readFileSync(image).equals(content)).toBe(true);
  });
});
