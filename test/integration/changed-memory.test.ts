/** Memory that comes, goes and comes back between two captures of a VM, and during one. */
import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { locateRamBlocks, type LocatedRamBlock } from '../../src/capture/ram-blocks.js';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import {
  examineGuest,
  restoreGuest,
  restoreSilently,
  saveGuest,
  stopRestored,
  useOwnFolders,
} from '../support/checkpointing.js';
import { qemuBinary } from '../support/cache.js';
import { startCli } from '../support/command.js';
import { storeProblems, untilParked } from '../support/faults.js';
import { startGuest } from '../support/guest.js';
import { killAtExit, killProcessesOf } from '../support/processes.js';
import { startTinyVm, type TinyVm } from '../support/tiny-vm.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory, skipWithoutTracker } from '../support/vitest.js';
import { TINY } from './qemu-helper.js';

skipWithoutTracker();

const HOT_MB = 64;
const SLOTS = ['-m', '64M,slots=2,maxmem=1G', '-object', `memory-backend-ram,id=hot,size=${HOT_MB}M`];
const DIMM = { driver: 'pc-dimm', id: 'dimm0', memdev: 'hot' };
const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };
const RAM_MB = 256;
const TAKEN_MB = 96;

describeOnEachQemu('memory that is plugged in', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  let vm: TinyVm;
  /** The saves have the other one. */
  let monitor: string;
  beforeEach(async () => {
    rmSync(storeDir, { recursive: true, force: true });
    monitor = path.join(dir, 'second.sock');
    vm = startTinyVm({ qemu, dir, args: [...SLOTS, '-qmp', `unix:${monitor},server=on,wait=off`] });
    await vm.untilFirmware();
  });

  const blocksOf = (generation: number) =>
    readManifest(path.join(storeDir, 'tiny', `${generation}`)).ram.blocks.map(({ name }) => name);

  it('between two captures is in the second, and its changes are in those that follow', async () => {
    const save = () => vm.save({ storeDir, name: 'tiny', method: 'capture' });
    await save();
    await vm.ask(['device_add', DIMM]);
    for (const word of ['first', 'second']) {
      await writeHot(vm.qmpSocket, word);
      await save();
    }
    expect(blocksOf(1).some(isHot)).toBe(false);
    for (const generation of [2, 3]) expect(blocksOf(generation).some(isHot)).toBe(true);
    await vm.end();
    for (const [generation, word] of [
      [2, 'first'],
      [3, 'second'],
    ] as const) {
      const { qemuPid, qmpSocket } = await restoreSilently({
        storeDir,
        reference: `tiny@${generation}`,
        qemuBinary: qemuBinary(qemu),
        qemuArgs: [...TINY, ...SLOTS, '-device', 'pc-dimm,id=dimm0,memdev=hot'],
        run: true,
      });
      killAtExit(qemuPid!);
      expect(await readHot(qmpSocket)).toBe(word);
      killProcessesOf(path.join(dir, 'run'));
    }
  });

  it.each([
    ['has QEMU save it', [], { code: 0, json: { method: 'background-snapshot' } }],
    ['is refused by name', ['--live', 'capture'], { code: 14, json: { error: { code: 'CAPTURE_REFUSED' } } }],
  ])('during a capture %s', async (_title, flags, expected) => {
    const args = ['--json', '--store', storeDir, 'save', ...flags, `qmp:${monitor}`, 'tiny'];
    const save = startCli(args, { env: { VMCKPT_PARK: 'streaming' } });
    await untilParked(save, 'streaming');
    await vm.ask(['device_add', DIMM]);
    process.kill(save.pid, 'SIGCONT');
    const ended = await save.ended;
    expect(ended).toMatchObject(expected);
    expect(ended.stderr).toContain('its memory was changed (memory hot-plug) meanwhile');
    expect(await vm.status()).toBe('running');
    expect(await storeProblems(storeDir)).toEqual([]);
    if (ended.code === 0) expect(blocksOf(1).some(isHot)).toBe(true);
  });
});

function isHot(name: string): boolean {
  return name.split('/').at(-1) === 'hot';
}

/** In the middle of the memory that was plugged in. */
async function withHot<T>(qmpSocket: string, use: (memory: number, address: number) => T): Promise<T> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  const pid = qmp.peerPid();
  let blocks: readonly LocatedRamBlock[];
  try {
    ({ blocks } = await locateRamBlocks(qmp, pid));
  } finally {
    await qmp.close();
  }
  const { hostAddress } = blocks.find(({ name }) => isHot(name))!;
  const memory = openSync(`/proc/${pid}/mem`, 'r+');
  try {
    return use(memory, hostAddress + (HOT_MB << 19) + 5 * PAGE_BYTES);
  } finally {
    closeSync(memory);
  }
}

function writeHot(qmpSocket: string, word: string): Promise<number> {
  return withHot(qmpSocket, (memory, address) =>
    writeSync(memory, Buffer.from(word.padEnd(16)), 0, 16, address),
  );
}

function readHot(qmpSocket: string): Promise<string> {
  return withHot(qmpSocket, (memory, address) => {
    const bytes = Buffer.alloc(16);
    readSync(memory, bytes, 0, bytes.length, address);
    return bytes.toString().trimEnd();
  });
}

describeOnEachQemu('a balloon that is inflated', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it('between two captures, or while one is taken, costs the guest nothing', async () => {
    const guest = await startGuest({ dir, qemu, ramMb: RAM_MB, fillMb: 64 });
    await guest.waitReady();
    const save = () => saveGuest(guest, { storeDir, name: 'web', method: 'capture' });
    await save();
    await resize(guest.qmpSocket, RAM_MB - TAKEN_MB);
    await untilResized(guest.qmpSocket, RAM_MB - TAKEN_MB);
    await save();
    for (const mb of [RAM_MB, RAM_MB - TAKEN_MB]) {
      await resize(guest.qmpSocket, mb);
      await save();
      await untilResized(guest.qmpSocket, mb);
    }
    await guest.stop();
    for (const generation of [1, 2, 3, 4]) {
      const restored = await restoreGuest(guest, { storeDir, reference: `web@${generation}`, qemu });
      expect(await examineGuest(restored.console, undefined)).toEqual(WHOLE);
      await restored.stop();
    }
  });
});

/** The guest does so by and by. */
async function resize(qmpSocket: string, mb: number): Promise<void> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  await qmp.execute('balloon', { value: mb << 20 });
  await qmp.close();
}

async function untilResized(qmpSocket: string, mb: number): Promise<void> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  const actual = async () => ((await qmp.execute('query-balloon')) as { actual: number }).actual >> 20;
  await until(`a balloon that leaves ${mb} MB`, async () => (await actual()) === mb);
  await qmp.close();
}
