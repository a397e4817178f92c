/** What disks write to memory past its page tables (O_DIRECT): a capture has it, although no write tracking sees it. */
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { openTracker } from '../../src/capture/open-tracker.js';
import { eachPage } from '../../src/capture/page-runs.js';
import { locateRamBlocks, regionsOf } from '../../src/capture/ram-blocks.js';
import { connectWhenReady } from './qemu-helper.js';
import { READ_COUNT, READ_FROM } from '../support/boot-sectors.js';
import { useOwnFolders } from '../support/checkpointing.js';
import { lostReads, pageReadTo, readableImage, wrongReads } from '../support/disk-reads.js';
import { slowDiskProblem, startSlowDisk } from '../support/slow-disk.js';
import { startTinyVm } from '../support/tiny-vm.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory, skipWithoutTracker } from '../support/vitest.js';

skipWithoutTracker();

const CAPTURES = 3;
const WAYS = ['native', 'io_uring', 'threads'];

describeOnEachQemu('what a disk writes to memory while it is captured', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);

  it.each(WAYS)('is in the checkpoint (cache=none, aio=%s)', async (aio) => {
    const image = readableImage(dir);
    const drive = `if=virtio,file=${image},format=raw,readonly=on,cache=none,aio=${aio}`;
    const vm = startTinyVm({ qemu, dir, args: ['-drive', drive] });
    await vm.untilMemory(READ_COUNT);
    for (let count = 0; count < CAPTURES; count++) {
      await vm.save({ storeDir, name: aio, method: 'capture', maxPauseMs: 1 });
      expect(await wrongReads(path.join(storeDir, aio, `${count + 1}`))).toEqual([]);
    }
    await vm.end();
  });

  describe.skipIf(slowDiskProblem() !== undefined)('when reads take long (needs root and /dev/fuse)', () => {
    it.each(WAYS)('is not told by write tracking that began meanwhile (aio=%s)', async (aio) => {
      const { qmp, disk } = await startReading(aio);
      const { blocks } = await locateRamBlocks(qmp, qmp.peerPid());
      const tracker = await openTracker({ pid: qmp.peerPid(), regions: regionsOf(blocks) });
      onTestFinished(() => tracker.close());
      tracker.arm();
      disk.letGo();
      await until('the next read', () => disk.held.length > 1);
      const told = new Set(eachPage(tracker.look()));
      const [before, after] = disk.held.map(pageReadTo);
      expect([told.has(before!), told.has(after!)]).toEqual([false, true]);
    });

    it.each(WAYS)('is in the checkpoints when each waits until the VM stops (aio=%s)', async (aio) => {
      const { vm, qmp, disk } = await startReading(aio);
      qmp.on('STOP', () => disk.letGo());
      const onProgress = () => disk.waitForHeld();
      const name = `slow-${aio}`;
      for (const tracked of [false, true]) {
        disk.waitForHeld();
        const before = disk.answered.length;
        // No pause is long enough for what was written: it is read while the VM runs once more.
        const wishes = { storeDir, name, track: true, maxPauseMs: 0, onProgress };
        const { generation, capture } = await vm.save({ ...wishes, method: 'capture' });
        expect(capture).toMatchObject({ tracked });
        expect(await lostReads(path.join(storeDir, name, `${generation}`), disk.answered)).toEqual([]);
        // Pinned before the tracking began, while all was read, and while what was written was.
        expect(disk.answered.length - before).toBeGreaterThanOrEqual(tracked ? 2 : 3);
      }
    });
  });

  /** A VM that reads page after page of its disk, and waits for one. `qmp` is a monitor of the test's own. */
  async function startReading(aio: string) {
    const disk = await startSlowDisk(dir, readableImage(dir));
    const monitor = path.join(dir, `${aio}.sock`);
    const args = [
      ...['-drive', `id=disk,if=none,file=${disk.file},format=raw,readonly=on,cache=none,aio=${aio}`],
      // With a thread of its own, the device would wait for its reads before QEMU says that the VM stops.
      ...['-device', 'virtio-blk-pci,drive=disk,ioeventfd=off'],
      ...['-qmp', `unix:${monitor},server=on,wait=off`],
    ];
    const vm = startTinyVm({ qemu, dir, args });
    // A QEMU that waits for its disk does not end.
    onTestFinished(() => disk.serve());
    await vm.untilMemory(READ_COUNT);
    const qmp = await connectWhenReady(monitor);
    onTestFinished(() => qmp.close());
    await disk.hold(READ_FROM);
    return { vm, qmp, disk };
  }
});
