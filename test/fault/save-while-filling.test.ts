/** A save of a VM whose memory a lazy restore still loads: refused by name before anything is changed, and right afterwards. */
import { afterEach, expect, it } from 'vitest';
import { Store } from '../../src/store/store.js';
import { listVms } from '../../src/vms/list.js';
import { BARE_WHOLE, examineBare, nextSweeps, startBare } from '../support/bare.js';
import { qemuBinary } from '../support/cache.js';
import { restoreGuest, saveGuest, stopRestored, useOwnFolders } from '../support/checkpointing.js';
import { startCli } from '../support/command.js';
import { Console } from '../support/console.js';
import { parkedTransfer, settingsOf, storeProblems, untilRunning } from '../support/faults.js';
import { killAndWait } from '../support/processes.js';
import { userfaultfdsOf } from '../support/traced.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory, skipWithoutTracker } from '../support/vitest.js';

skipWithoutTracker();

describeOnEachQemu('a VM whose memory is still being loaded', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it.each(['direct', 'stream'])('is not saved, and is saved when it is complete (%s)', async (way) => {
    const guest = await startBare({ dir, qemu, ramMb: 32, words: 'pause=3' });
    const before = await nextSweeps(guest);
    await saveGuest(guest, { storeDir, name: way, method: 'capture' });
    await guest.stop();
    const own = ['--json', '--store', storeDir];
    const restoreArgs = ['restore', '--mode', 'lazy', '--path', way, '--qemu', qemuBinary(qemu)];
    const restore = startCli([...own, ...restoreArgs, '--trust-command-line', way], {
      env: { VMCKPT_PARK: 'background' },
    });
    const transfer = await parkedTransfer(way, 'background');
    const { qemu: restored } = await untilRunning(way, restore);
    const held = userfaultfdsOf(restored!.pid);
    for (const flags of [[], ['--live', 'capture'], ['--live', 'background-snapshot'], ['--stop']]) {
      const refused = await startCli([...own, 'save', ...flags, `qmp:${guest.qmpSocket}`, way]).ended;
      expect(refused).toMatchObject({
        code: 11,
        json: {
          error: {
            code: 'VM_BUSY',
            message: expect.stringContaining('a migration is under way') as string,
            hint: `Wait until vmckpt ps calls "${way}" complete.`,
          },
        },
      });
      expect(userfaultfdsOf(restored!.pid)).toEqual(held);
    }
    process.kill(transfer, 'SIGCONT');
    expect(await restore.ended).toMatchObject({ code: 0 });
    const status = () => listVms().find(({ name }) => name === way)?.status;
    await until('the memory to be complete', () => status() === 'complete');
    const settings = await settingsOf(guest.qmpSocket);
    await saveGuest(guest, { storeDir, name: way, method: 'capture' });
    expect(await settingsOf(guest.qmpSocket)).toEqual(settings);
    const console = await Console.connect(guest.consoleSocket);
    for (const sweep of before) expect(await examineBare(console, sweep)).toEqual(BARE_WHOLE);
    console.close();
    await killAndWait(restored!.pid);
    expect(await (await Store.open(storeDir)).generations(way)).toEqual([1, 2]);
    expect(await storeProblems(storeDir)).toEqual([]);
    const again = await restoreGuest(guest, { storeDir, reference: `${way}@2`, qemu });
    for (const sweep of before) expect(await examineBare(again.console, sweep)).toEqual(BARE_WHOLE);
  });
});
