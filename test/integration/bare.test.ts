import { afterEach, describe, expect, it } from 'vitest';
import { BARE_WHOLE, examineBare, nextSweep, nextSweeps, startBare } from '../support/bare.js';
import { restoreGuest, saveGuest, stopRestored, useOwnFolders } from '../support/checkpointing.js';
import { GuestMemory } from '../support/guest-memory.js';
import { suiteDirectory } from '../support/vitest.js';

/** Under KVM: kvm.test.ts. */
describe('a guest without a kernel, in software emulation,', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it.each([1, 2] as const)('is whole when it is restored, with %i vCPUs', async (smp) => {
    const guest = await startBare({ dir, smp });
    const before = await nextSweeps(guest);
    await saveGuest(guest, { storeDir, name: 'bare' });
    await guest.stop();
    const restored = await restoreGuest(guest, { storeDir, reference: 'bare', qemu: 'system' });
    for (const sweep of before) expect(await examineBare(restored.console, sweep)).toEqual(BARE_WHOLE);
  });

  it('finds a word of its memory that is wrong', async () => {
    const guest = await startBare({ dir });
    const before = await nextSweep(guest.console);
    const memory = GuestMemory.open({ pid: guest.pid, ramBytes: guest.ramBytes });
    const offset = guest.ramBytes / 2;
    const page = memory.read(offset);
    page[100]! ^= 1;
    memory.write(offset, page);
    memory.close();
    await guest.console.waitFor(/^BAD page=\d+ kind=\d /);
    expect(await examineBare(guest.console, before)).toMatchObject({ memory: false, code: true });
    await guest.stop();
  });
});
