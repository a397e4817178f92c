/** Pre-copy of a guest that writes faster than it is saved. */
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { checkCheckpoint } from '../../src/checkpoint/check.js';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { globalStateIn } from '../../src/migration-stream/global-state.js';
import { memoryOf, readGeneration } from '../unit/interchange/machines.js';
import { describeOnQemu10, suiteDirectory } from '../support/vitest.js';
import { bootSector } from '../support/boot-sectors.js';
import { startTinyVm } from '../support/tiny-vm.js';

/** Main memory is the first block: what the boot sector rewrites lies there as in the guest. */
const REWRITTEN = { start: 0x1000000, end: 0x1000000 + 44 * 2 ** 20 };

/** How often a word is not the one that the guest writes behind its predecessor: once, where the guest was at work. */
function breaksIn(reader: CheckpointReader): number {
  const memory = memoryOf(reader);
  reader.close();
  let breaks = 0;
  for (let at = REWRITTEN.start + 4; at < REWRITTEN.end; at += 4) {
    const before = memory.readUInt32LE(at - 4);
    if (memory.readUInt32LE(at) !== (Math.imul(before, 1664525) + 1013904223) >>> 0) breaks++;
  }
  return breaks;
}

describeOnQemu10('pre-copy of a guest that never rests', () => {
  const dir = suiteDirectory();
  const storeDir = path.join(dir, 'store');

  /** Of all files of the store; as far as they can be found while the generation gets its name. */
  function storedBytes(): number {
    try {
      return readdirSync(storeDir, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .reduce((sum, { parentPath, name }) => sum + statSync(path.join(parentPath, name)).size, 0);
    } catch {
      return 0;
    }
  }

  it('ends, says that it pauses the VM, and stores no more than twice its memory meanwhile', async () => {
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
    const vm = startTinyVm({ qemu: '10', dir, args: bootSector(dir, 'rewrite') });
    await vm.untilStatus('running');
    // Until a guest that was just started rewrites all of it.
    await vm.untilMemory(REWRITTEN.end - 4);
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
    expect(readManifest(path.join(storeDir, 'busy', '1'))).toMatchObject({ runState: 'running' });
    const { deviceState } = await readGeneration(storeDir, 1, 'busy');
    expect(globalStateIn(deviceState).name).toBe('running');
    expect(breaksIn(await CheckpointReader.open(path.join(storeDir, 'busy', '1')))).toBeLessThanOrEqual(1);
    expect(await checkCheckpoint(path.join(storeDir, 'busy', '1'))).toMatchObject({ problems: [] });
  });
});
