/** What a QEMU with a running guest makes of being tracked: it and its guest notice nothing. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Accelerator } from '../../src/bench/guest.js';
import { openWriteProtection } from '../../src/capture/open-tracker.js';
import { memoryProblem } from '../../src/capture/trackable.js';
import type { TrackerOptions, WriteTracker } from '../../src/capture/tracker.js';
import { writeProtectionProblem } from '../../src/native/index.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import { locateMemory } from '../../src/qemu/guest-memory.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { BARE_WHOLE, examineBare, nextSweep, startBare, type BareVm } from '../support/bare.js';
import type { QemuChoice } from '../support/cache.js';
import { chooseSeed, Random } from '../support/faults.js';
import { killTrackerAfter, killTrackerAt, TRACKER_POINTS, userfaultfdsOf } from '../support/traced.js';
import { describeOnEachQemu, describeUnderKvm, suiteDirectory } from '../support/vitest.js';

const SANDBOX = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny';
const RANDOM_KILLS = 20;
const MAX_US = 5_000;

function suite(qemu: QemuChoice, accel: Accelerator): void {
  const dir = suiteDirectory();

  let vm: BareVm;
  let qmp: QmpClient;
  let options: TrackerOptions;

  beforeAll(async () => {
    vm = await startBare({ dir, qemu, accel, words: 'writer', extraArgs: ['-sandbox', SANDBOX] });
    qmp = await QmpClient.connect({ path: vm.qmpSocket });
    const blocks = [{ name: 'pc.ram', usedBytes: vm.ramBytes }];
    const [located] = await locateMemory(qmp, blocks, []);
    const pageCount = vm.ramBytes / PAGE_BYTES;
    const regions = [{ address: located!.hostAddress, firstPage: 0, pageCount }];
    options = { pid: vm.pid, regions, isSandboxed: true };
  });
  afterAll(async () => {
    await qmp.close();
    await vm.stop();
  });

  async function opened(options: TrackerOptions): Promise<WriteTracker> {
    const tracker = await openWriteProtection(options);
    if (typeof tracker === 'string') throw new Error(tracker);
    return tracker;
  }

  async function expectWhole({ console }: BareVm): Promise<void> {
    expect(await examineBare(console, await nextSweep(console))).toEqual(BARE_WHOLE);
  }

  const snapshots = (state: boolean) =>
    ({ capabilities: [{ capability: 'background-snapshot', state }] }) as const;

  it('tells what the guest writes, and lets background snapshots be as soon as it has gone', async () => {
    expect(memoryProblem(options.pid, options.regions)).toBeUndefined();
    const tracker = await opened(options);
    await qmp.execute('stop');
    tracker.arm();
    await qmp.execute('cont');
    await nextSweep(vm.console);
    await qmp.execute('stop');
    const written = pagesOf(tracker.take());
    expect(pagesOf(tracker.look())).toBe(0);
    await qmp.execute('cont');
    // Its writer rewrites a quarter of memory.
    expect(written).toBeGreaterThan(0);
    expect(written).toBeLessThan(options.regions[0]!.pageCount / 2);
    await expect(qmp.execute('migrate-set-capabilities', snapshots(true))).rejects.toThrow(
      'not compatible with guest memory configuration',
    );
    expect(userfaultfdsOf(vm.pid)).toEqual([]);
    tracker.close();
    await qmp.execute('migrate-set-capabilities', snapshots(true));
    await qmp.execute('migrate-set-capabilities', snapshots(false));
    await expectWhole(vm);
  });

  it('is harmed by none of its programs that is killed, wherever it is', async () => {
    for (const point of TRACKER_POINTS) await killTrackerAt(vm.pid, point);
    const random = new Random(chooseSeed());
    console.info(`VMCKPT_SEED=${random.seed}`);
    for (let i = 0; i < RANDOM_KILLS; i++) await killTrackerAfter(vm.pid, random.next() * MAX_US);
    await expectWhole(vm);
    (await opened(options)).close();
    expect(userfaultfdsOf(vm.pid)).toEqual([]);
    await expectWhole(vm);
  });
}

function pagesOf(runs: Uint32Array): number {
  return runs.reduce((sum, value, at) => (at % 2 === 1 ? sum + value : sum), 0);
}

if (writeProtectionProblem() === undefined) {
  describeOnEachQemu('write tracking', (qemu) => suite(qemu, 'tcg'));
  describeUnderKvm('write tracking', (qemu) => suite(qemu, 'kvm'));
} else {
  it.skip(`write tracking: ${writeProtectionProblem()}`);
}
