/** Pre-copy of a guest that writes faster than it is saved. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { checkCheckpoint } from '../../src/checkpoint/check.js';
import { describeOnQemu10, suiteDirectory } from '../support/vitest.js';
import { bootSector, startTinyVm } from './tiny-vm.js';

describeOnQemu10('pre-copy of a guest that never rests', () => {
  const dir = suiteDirectory();
  const storeDir = path.join(dir, 'store');

  /** Of all files of the store. */
  function storedBytes(): number {
    if (!existsSync(storeDir)) return 0;
    return readdirSync(storeDir, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .reduce(
        (sum, { parentPath, name }) =>
          sum + (statSync(path.join(parentPath, name), { throwIfNoEntry: false })?.size ?? 0),
        0,
      );
  }

  it('ends, says that it pauses the VM, and stores no more than twice its memory meanwhile', async () => {
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
    const vm = startTinyVm({ qemu: '10', dir, args: bootSector(dir, 'rewrite') });
    await vm.untilStatus('running');
    // Until a guest that was just started rewrites all of it.
    await vm.untilMemory(0x1000000 + 44 * 2 ** 20 - 4);
    const messages: string[] = [];
    let mostBytes = 0;
    const watch = setInterval(() => (mostBytes = Math.max(mostBytes, storedBytes())), 20);
    const { ramBytes } = await vm.save({
      storeDir,
      name: 'busy',
      method: 'precopy',
      // So slowly that the guest writes more in the 300 ms that it may be paused for.
      level: 15,
      onMessage: (text) => messages.push(text),
    });
    clearInterval(watch);
    expect(messages.join()).toMatch(/paused (after 30 passes|because more of it)/);
    expect(await vm.status()).toBe('running');
    expect(mostBytes).toBeGreaterThan(ramBytes / 2);
    expect(mostBytes).toBeLessThan(2 * ramBytes);
    expect(await checkCheckpoint(path.join(storeDir, 'busy', '1'))).toMatchObject({ problems: [] });
  });
});
