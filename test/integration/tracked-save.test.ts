/** Saves of a VM whose writes are tracked between them: they read nothing else, and hold all of its memory. */
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Accelerator } from '../../src/bench/guest.js';
import { HeldTracking } from '../../src/capture/held-tracking.js';
import { findLeftovers } from '../../src/doctor/leftovers.js';
import { listTracked } from '../../src/doctor/tracker.js';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { isWriteProtected } from '../../src/qemu/guest-memory.js';
import { rescue } from '../../src/save/rescue.js';
import type { SaveReport } from '../../src/save/save.js';
import { listTrackedVms } from '../../src/save/tracked-vms.js';
import { Store } from '../../src/store/store.js';
import type { ParkingPoint } from '../../src/util/park.js';
import { identifyProcess } from '../../src/util/process-identity.js';
import { BARE_WHOLE, examineBare, nextSweeps, startBare } from '../support/bare.js';
import { READ_COUNT, bootSector } from '../support/boot-sectors.js';
import type { QemuChoice } from '../support/cache.js';
import { isRoot } from '../support/cli.js';
import { restoreGuest, saveGuest, stopRestored, useOwnFolders } from '../support/checkpointing.js';
import { startCli, type RunningCli } from '../support/command.js';
import { flipPageIndex } from '../support/damage.js';
import { readableImage, wrongReads } from '../support/disk-reads.js';
import { storeProblems, untilParked } from '../support/faults.js';
import { killAndWait } from '../support/processes.js';
import { differingPages } from '../support/saved-pages.js';
import { startTinyVm, type TinyVm } from '../support/tiny-vm.js';
import { until } from '../support/until.js';
import {
  describeOnEachQemu,
  describeUnderKvm,
  suiteDirectory,
  skipWithoutTracker,
} from '../support/vitest.js';

skipWithoutTracker('write-protection');

const UNPRIVILEGED = '/proc/sys/vm/unprivileged_userfaultfd';
const USER = 4242;
/** Where the program of the boot sector `rewrite` has begun. */
const REWRITTEN = 16 << 20;

describeOnEachQemu('a VM that is tracked between its saves', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const generation = (reference: string) => path.join(storeDir, reference);
  const sockets = () => readdirSync(path.join(dir, 'run', 'tracking'));
  let vm: TinyVm;
  /** The saves have it; the tests ask through the other one. */
  let monitor: string;

  beforeEach(async () => {
    rmSync(storeDir, { recursive: true, force: true });
    monitor = path.join(dir, 'second.sock');
    const args = ['-m', '64,slots=2,maxmem=256M', ...bootSector(dir, 'rewrite')];
    vm = startTinyVm({ qemu, dir, args: [...args, '-qmp', `unix:${monitor},server=on,wait=off`] });
    await vm.untilMemory(REWRITTEN);
  });

  const save = (options: Partial<Parameters<TinyVm['save']>[0]> = {}): Promise<SaveReport> =>
    vm.save({ storeDir, name: 'web', method: 'capture', ...options });

  /** It goes no further before it gets SIGCONT. */
  async function startParked(point: ParkingPoint, name = 'web'): Promise<RunningCli> {
    const args = ['--json', '--store', storeDir, 'save', '--own-command-line', `qmp:${monitor}`, name];
    const verb = startCli(args, { env: { VMCKPT_PARK: point } });
    await untilParked(verb, point);
    return verb;
  }

  /** The VM stands still at the instant of a next save, so that a held migration gives the same. */
  async function saveAndCompare(): Promise<SaveReport> {
    const verb = await startParked('tracked');
    await vm.ask('stop');
    process.kill(verb.pid, 'SIGCONT');
    const { code, json } = await verb.ended;
    expect(code).toBe(0);
    const report = json as SaveReport;
    await save({ name: 'held', method: 'stopped', ownCommandLine: true });
    const [saved, held] = [generation(`web/${report.generation}`), generation('held/1')];
    expect(await differingPages(saved, held)).toEqual([]);
    expect(await storeProblems(storeDir)).toEqual([]);
    rmSync(generation('held'), { recursive: true });
    await vm.ask('cont');
    return report;
  }

  it('is read as far as it was written to, again and again', async () => {
    expect(await save({ track: true })).toMatchObject({ capture: { tracked: false, goesOn: true } });
    for (let count = 0; count < 3; count++)
      expect(await saveAndCompare()).toMatchObject({ capture: { tracked: true, goesOn: true } });
    expect(await save({ track: false, maxPauseMs: 1 })).toMatchObject({
      capture: { tracked: true, goesOn: false },
    });
    expect(await listTrackedVms()).toEqual([]);
    expect(sockets()).toEqual([]);
    await save({ method: 'background-snapshot' });
    expect(await save()).toMatchObject({ capture: { tracked: false, goesOn: false } });
  });

  it('has what hardly changes from the generation before, unless all is stored', async () => {
    const trace = (enable: boolean) => vm.ask(['trace-event-set-state', { name: 'qmp_job_cancel', enable }]);
    await trace(true);
    await save({ track: true });
    await trace(false);
    await save();
    await save({ full: true });
    const traces = [1, 2, 3].map((number) => {
      const { settings = [] } = readManifest(generation(`web/${number}`));
      return settings.filter(({ kind }) => kind === 'trace').map(({ id }) => id);
    });
    expect(traces).toEqual([['qmp_job_cancel'], ['qmp_job_cancel'], []]);
    const [first, second] = [1, 2].map((number) => statSync(generation(`web/${number}/working-set`)));
    expect(second!.ino).toBe(first!.ino);
  });

  it('is as it was before in what it wrote since a reset', async () => {
    await save({ track: true });
    await vm.ask('system_reset');
    await vm.untilStatus('running');
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: true } });
  });

  it.each<[string, Partial<Parameters<TinyVm['save']>[0]>]>([
    ['of another name', { name: 'other' }],
    ['to another store', { storeDir: path.join(dir, 'store2') }],
    ['by a migration', { method: 'stopped' }],
  ])('is read whole after a save %s', async (_title, between) => {
    await save({ track: true });
    await save(between);
    await vm.ask('cont');
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: false, goesOn: true } });
  });

  it('is read whole by a save that is to store everything', async () => {
    await save({ track: true });
    expect(await save({ full: true })).toMatchObject({ capture: { tracked: false, goesOn: true } });
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: true } });
  });

  it('is read whole when the generation is gone that the tracking began with', async () => {
    await save();
    await save({ track: true });
    await (await Store.open(storeDir)).remove('web@2');
    const details: string[] = [];
    const report = await save({ onDetail: (text) => void details.push(text) });
    expect(report).toMatchObject({ generation: 2, capture: { tracked: false, goesOn: true } });
    expect(details.join()).toMatch(
      /since web@2, which is not the generation before this one: all memory is read/,
    );
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: true } });
  });

  it('is read whole when somebody else has looked', async () => {
    await save({ track: true });
    const [socket] = sockets();
    const held = await HeldTracking.find(path.join(dir, 'run', 'tracking', socket!));
    closeSync(await held!.take());
    await held!.keep('their note');
    held!.close();
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: false, goesOn: true } });
  });

  it('is read whole, and is no longer tracked, when the process is killed that keeps it', async () => {
    await save({ track: true });
    const [tracked] = await listTrackedVms();
    await killAndWait(tracked!.holderPid);
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: false, goesOn: false } });
    expect(isWriteProtected(tracked!.pid)).toBe(false);
  });

  it.each(['web', 'other'])(
    'is read whole after a save as %s that was interrupted, and goes on to be tracked',
    async (name) => {
      await save({ track: true });
      const interrupted = await startParked('tracked', name);
      interrupted.kill('SIGINT');
      interrupted.kill('SIGCONT');
      expect(await interrupted.ended).toMatchObject({ code: 130 });
      expect(await listTrackedVms()).toMatchObject([{ state: 'kept', note: undefined }]);
      expect(await listTracked()).toMatchObject([
        { meaning: expect.stringContaining('all memory, because the last one failed') as string },
      ]);
      expect(await saveAndCompare()).toMatchObject({ capture: { tracked: false, goesOn: true } });
      expect(await saveAndCompare()).toMatchObject({ capture: { tracked: true, goesOn: true } });
    },
  );

  it('is read whole when the index is damaged that it would take over, and goes on to be tracked', async () => {
    await save({ track: true });
    flipPageIndex(generation('web/1'));
    const messages: string[] = [];
    const report = await save({ onMessage: (text) => void messages.push(text) });
    expect(report).toMatchObject({ generation: 2, capture: { tracked: false, goesOn: true } });
    expect(messages).toContainEqual(
      expect.stringMatching(/^Everything is stored.* is damaged: web\/1\/pack-/),
    );
    rmSync(generation('web/1'), { recursive: true });
    expect(await storeProblems(storeDir)).toEqual([]);
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: true } });
  });

  it('is tracked anew when the process is stopped that keeps it', async () => {
    await save({ track: true });
    const { pid, holderPid } = (await listTrackedVms())[0]!;
    process.kill(holderPid, 'SIGSTOP');
    expect(await listTracked()).toMatchObject([
      {
        status: 'warn',
        found: expect.stringContaining('it is stopped') as string,
        remedy: `kill -CONT ${holderPid}`,
      },
    ]);
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: false, goesOn: true } });
    expect(identifyProcess(holderPid)).toBeUndefined();
    expect(await listTrackedVms()).toMatchObject([{ pid, state: 'kept' }]);
    expect(sockets()).toHaveLength(1);
  });

  it('leaves a socket when that process is killed, which doctor names, and rescue or a save removes', async () => {
    const { signal } = new AbortController();
    for (const remove of ['rescue', 'save']) {
      await save({ track: true });
      const { pid, holderPid } = (await listTrackedVms())[0]!;
      await killAndWait(holderPid);
      const [socket] = sockets();
      expect(await findLeftovers(storeDir)).toMatchObject([
        { status: 'warn', found: expect.stringContaining(`tracking/${socket} is the socket`) as string },
      ]);
      if (remove === 'save') await save();
      else await rescue({ pid, qmpSocket: undefined, onMessage: () => undefined, signal });
      expect(sockets()).toEqual([]);
      expect(await findLeftovers(storeDir)).toMatchObject([{ found: 'none' }]);
    }
  });

  it('is saved, and no longer tracked, when that process is killed while a save has the tracking', async () => {
    await save({ track: true });
    const [tracked] = await listTrackedVms();
    const verb = await startParked('committing');
    await killAndWait(tracked!.holderPid);
    process.kill(verb.pid, 'SIGCONT');
    const { code, stderr } = await verb.ended;
    expect(code).toBe(0);
    expect(stderr).toMatch(/not tracked from here on.*has ended, or does not answer/);
    expect(isWriteProtected(tracked!.pid)).toBe(false);
    expect(await saveAndCompare()).toMatchObject({ generation: 3, capture: { tracked: false } });
  });

  it('is read whole when memory was plugged in', async () => {
    await save({ track: true });
    await vm.ask(
      ['object-add', { 'qom-type': 'memory-backend-ram', id: 'more', size: 128 << 20 }],
      ['device_add', { driver: 'pc-dimm', id: 'dimm0', memdev: 'more' }],
    );
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: false, goesOn: true } });
    expect(await saveAndCompare()).toMatchObject({ capture: { tracked: true, goesOn: true } });
  });

  it.each(['tracked', 'paused', 'committing', 'keeping'] as const)(
    'loses no page when a save is killed where it is at "%s"',
    async (point) => {
      await save({ track: true });
      const [tracked] = await listTrackedVms();
      const verb = await startParked(point);
      verb.kill();
      await verb.ended;
      await until('the tracking to end', () => !isWriteProtected(tracked!.pid));
      expect(sockets()).toEqual([]);
      expect(await save({ track: true })).toMatchObject({ capture: { tracked: false } });
      expect(await saveAndCompare()).toMatchObject({ capture: { tracked: true } });
    },
  );

  it('is told by doctor, and by the save that has to end it', async () => {
    await save({ track: true });
    const [tracked] = await listTrackedVms();
    const { pid, holderPid } = tracked!;
    const [finding] = await listTracked();
    expect(finding).toMatchObject({
      status: 'ok',
      found: expect.stringContaining(`VM with process ${pid}`) as string,
    });
    expect(finding!.found).toMatch(new RegExp(`^process ${holderPid} .*since web@1, 20`));
    expect(finding!.remedy).toContain(`kill ${holderPid}`);
    const messages: string[] = [];
    await save({ method: 'background-snapshot', onMessage: (text) => void messages.push(text) });
    expect(messages).toContainEqual(
      expect.stringContaining(`no longer tracked (since web@1, by process ${holderPid})`) as string,
    );
    expect(await listTracked()).toEqual([]);
  });

  it('names who tracks it where that is not found', async () => {
    await save({ track: true });
    const [tracked] = await listTrackedVms();
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'elsewhere');
    try {
      await expect(save({ name: 'other' })).rejects.toMatchObject({
        code: 'CAPTURE_REFUSED',
        message: expect.stringContaining(
          `process ${tracked!.holderPid} keeps track of what it writes`,
        ) as string,
      });
    } finally {
      process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
    }
  });

  it('is not tracked any more when it is rescued, or the process is ended that keeps it', async () => {
    const { signal } = new AbortController();
    await save({ track: true });
    const [first] = await listTrackedVms();
    const { pid } = first!;
    const rescued = await rescue({ pid, qmpSocket: undefined, onMessage: () => undefined, signal });
    expect(rescued).toMatchObject({ trackingEnded: true, regions: 0 });
    expect(isWriteProtected(pid)).toBe(false);
    await save({ track: true });
    const [second] = await listTrackedVms();
    process.kill(second!.holderPid, 'SIGTERM');
    await until('its socket to go', () => sockets().length === 0);
    // Which goes a moment before.
    await until('the tracking to end', () => !isWriteProtected(pid));
  });

  it('leaves nothing when QEMU ends', async () => {
    await save({ track: true });
    await vm.end();
    await until('the socket to go', () => sockets().length === 0);
    expect(await listTrackedVms()).toEqual([]);
  });

  it('tells where it cannot be tracked', async () => {
    await vm.ask('stop');
    const messages: string[] = [];
    await save({ track: true, onMessage: (text) => void messages.push(text) });
    expect(messages.join()).toMatch(/not tracked from here on/);
    expect(existsSync(path.join(dir, 'run', 'tracking')) ? sockets() : []).toEqual([]);
  });
});

describe.runIf(isRoot)('a tracked VM that QEMU may not watch (needs root to start it)', () => {
  describeOnEachQemu('a background snapshot of it', (qemu) => {
    const dir = suiteDirectory();
    const storeDir = useOwnFolders(dir);

    it('is refused, and the tracking goes on', async ({ skip }) => {
      skip(readFileSync(UNPRIVILEGED, 'latin1').trim() === '1', 'all processes may use userfaultfd here');
      chmodSync(dir, 0o711);
      const folder = mkdtempSync(path.join(dir, 'vm-'));
      chownSync(folder, USER, USER);
      const wrapper = ['setpriv', `--reuid=${USER}`, `--regid=${USER}`, '--clear-groups', '--'];
      const vm = startTinyVm({ qemu, dir: folder, wrapper });
      await vm.untilFirmware();
      const common = { storeDir, name: 'web' };
      await vm.save({ ...common, method: 'capture', track: true });
      await expect(vm.save({ ...common, method: 'background-snapshot' })).rejects.toMatchObject({
        code: 'NOT_PERMITTED',
      });
      expect(await vm.save({ ...common, method: 'capture' })).toMatchObject({
        capture: { tracked: true, goesOn: true },
      });
    });
  });
});

describeOnEachQemu('a guest that rewrites its memory and is tracked', (qemu) => testRewriting(qemu, 'tcg'));
describeUnderKvm('a guest that rewrites its memory and is tracked', (qemu) => testRewriting(qemu, 'kvm'));

function testRewriting(qemu: QemuChoice, accel: Accelerator): void {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  afterEach(stopRestored);

  it('is whole in each of its generations', async () => {
    const guest = await startBare({ dir, qemu, accel, smp: 2, words: 'pause=1' });
    const chain = { storeDir, name: 'bare', method: 'capture', maxPauseMs: 1 } as const;
    const before = [];
    for (let count = 0; count < 4; count++) {
      before.push(await nextSweeps(guest));
      expect(await saveGuest(guest, { ...chain, track: true })).toMatchObject({
        capture: { tracked: count > 0, goesOn: true },
      });
    }
    await nextSweeps(guest);
    await guest.stop();
    for (const generation of [4, 2]) {
      const restored = await restoreGuest(guest, { storeDir, reference: `bare@${generation}`, qemu });
      for (const sweep of before[generation - 1]!)
        expect(await examineBare(restored.console, sweep)).toEqual(BARE_WHOLE);
      // A new process, of which nobody knows anything.
      expect(await saveGuest(guest, { ...chain, name: `again${generation}` })).toMatchObject({
        capture: { tracked: false, goesOn: false },
      });
      await restored.stop();
    }
  });
}

describeOnEachQemu('what a disk writes to memory that is tracked', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);

  it.each(['native', 'io_uring', 'threads'])('is in the checkpoints (cache=none, aio=%s)', async (aio) => {
    const drive = `if=virtio,file=${readableImage(dir)},format=raw,readonly=on,cache=none,aio=${aio}`;
    const vm = startTinyVm({ qemu, dir, args: ['-drive', drive] });
    await vm.untilMemory(READ_COUNT);
    for (let count = 0; count < 4; count++) {
      const report = await vm.save({ storeDir, name: aio, method: 'capture', track: true });
      expect(report.capture?.tracked).toBe(count > 0);
      expect(await wrongReads(path.join(storeDir, aio, `${count + 1}`))).toEqual([]);
    }
    await vm.end();
  });
});
