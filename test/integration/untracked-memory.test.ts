/** Memory whose writes cannot all be seen from outside: a save of it says so in one line, and is made by QEMU. */
import { mkdtempSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { useOwnFolders } from '../support/checkpointing.js';
import { hugePagesProblem, withHugePages } from '../support/huge-pages.js';
import { startTinyVm } from '../support/tiny-vm.js';
import { describeOnEachQemu, skipWithoutTracker, suiteDirectory } from '../support/vitest.js';

skipWithoutTracker();

const HUGE_PAGES = 40;
const noHugePages = hugePagesProblem(HUGE_PAGES);

describeOnEachQemu('a running VM', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  /** On a tmpfs: what lies on a disk QEMU does not save live. */
  const shm = mkdtempSync('/dev/shm/vmckpt-');
  afterAll(() => rmSync(shm, { recursive: true }));
  beforeEach(() => rmSync(storeDir, { recursive: true, force: true }));

  async function expectStream(backend: string): Promise<void> {
    const args = ['-object', `${backend},id=ram,size=64M`, '-machine', 'memory-backend=ram'];
    const vm = startTinyVm({ qemu, dir, args });
    await vm.untilFirmware();
    const common = { storeDir, name: 'web', method: 'capture' } as const;
    await expect(vm.save(common)).rejects.toMatchObject({ code: 'CAPTURE_REFUSED' });
    const messages: string[] = [];
    const onMessage = (text: string): void => void messages.push(text);
    expect(await vm.save({ ...common, mayFallBack: true, onMessage })).toMatchObject({
      method: 'background-snapshot',
    });
    expect(messages).toEqual([
      'QEMU’s own migration saves it, because the VM cannot be captured from outside: "ram" lies in a file, or is shared with other processes.',
    ]);
    expect(await vm.status()).toBe('running');
    await vm.end();
  }

  it.each([
    ['shared', 'memory-backend-memfd,share=on'],
    ['a shared file', `memory-backend-file,share=on,mem-path=${path.join(shm, 'shared')}`],
    ['a private file', `memory-backend-file,share=off,mem-path=${path.join(shm, 'private')}`],
  ])('whose memory is %s is saved by QEMU, which is told in one line', async (_title, backend) => {
    await expectStream(backend);
  });

  describe.skipIf(noHugePages !== undefined)(`with huge pages (${noHugePages ?? 'of 2 MiB'})`, () => {
    withHugePages(HUGE_PAGES);

    it.each(['on', 'off'])(
      'of hugetlbfs (share=%s) is saved by QEMU, which is told in one line',
      async (share) => {
        await expectStream(`memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=${share}`);
      },
    );
  });
});
