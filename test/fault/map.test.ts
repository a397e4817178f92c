import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { QmpClient } from '../../src/qemu/qmp.js';
import { listVms } from '../../src/vms/list.js';
import { VmFolder } from '../../src/vms/folder.js';
import { usersOf } from '../../src/store/generation-use.js';
import { examineGuest, saveGuest } from '../support/checkpointing.js';
import { startCli, type RunningCli } from '../support/command.js';
import { Console, type Heartbeat } from '../support/console.js';
import { chooseSeed, pidsOf, Random, storeProblems, untilParked } from '../support/faults.js';
import { startGuest, type Guest } from '../support/guest.js';
import { killAndWait, killProcessesOf } from '../support/processes.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };
const ROUNDS = 5;
/** A little more than a restore takes. */
const RESTORE_MS = 800;

vi.setConfig({ testTimeout: 240_000 });

describeOnEachQemu('a restore that maps its memory', (qemu) => {
  const dir = suiteDirectory();
  const [storeDir, runtimeDir] = [path.join(dir, 'store'), path.join(dir, 'run')];
  const random = new Random(chooseSeed());
  const rawFile = path.join(storeDir, 'web', '1', 'raw-memory');
  let guest: Guest;
  let before: Heartbeat;
  let hash: string;

  beforeAll(async () => {
    console.info(`VMCKPT_SEED=${random.seed}`);
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    guest = await startGuest({ dir, qemu, fillMb: 64 });
    await guest.waitReady();
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'web', layout: 'raw' });
    await guest.stop();
    hash = hashOf(rawFile);
  });
  afterEach(async () => {
    await startCli(['stop', 'web']).ended;
    expect(pidsOf(runtimeDir, 'qemu')).toEqual([]);
    expect(existsSync(new VmFolder('web').directory)).toBe(false);
    expect(usersOf(path.join(storeDir, 'web'), 1)).toEqual([]);
    expect(await storeProblems(storeDir)).toEqual([]);
    expect(hashOf(rawFile)).toBe(hash);
  });
  afterAll(() => killProcessesOf(runtimeDir));

  function restoreArgs(...args: string[]): string[] {
    const own = ['--mode', 'map', '--qemu', guest.argv[0]!, '--trust-command-line'];
    return ['--json', '--store', storeDir, 'restore', ...own, 'web', ...args];
  }

  const startRestore = (...args: string[]): RunningCli => startCli(restoreArgs(...args));

  async function expectWhole(): Promise<void> {
    const console = await Console.connect(guest.consoleSocket);
    try {
      expect(await examineGuest(console, before)).toEqual(WHOLE);
    } finally {
      console.close();
    }
  }

  const statusOfVm = () => listVms()[0]?.status;

  /** One whose verb died right before it does not run. */
  async function isRunning(): Promise<boolean> {
    const qmp = await QmpClient.connect({ path: guest.qmpSocket });
    const { running } = (await qmp.execute('query-status')) as { running: boolean };
    await qmp.close();
    return running;
  }

  it('and whose verb is killed leaves a whole VM, or makes way for the next restore', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const restore = startRestore();
      await random.pause(RESTORE_MS);
      restore.kill();
      await restore.ended;
      const status = statusOfVm();
      expect([undefined, 'abandoned', 'ended', 'complete']).toContain(status);
      if (status === 'complete') {
        if (await isRunning()) await expectWhole();
        expect((await startRestore().ended).json).toMatchObject({ error: { code: 'VM_BUSY' } });
        await startCli(['stop', 'web']).ended;
      }
      expect(await startRestore().ended).toMatchObject({ code: 0, json: { mode: 'map', path: 'map' } });
      await expectWhole();
      await startCli(['stop', 'web']).ended;
    }
  });

  it('leaves nothing when it is interrupted before the VM runs', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const restore = startRestore();
      await random.pause(RESTORE_MS);
      restore.kill('SIGINT');
      const { code } = await restore.ended;
      if (code === 0) await expectWhole();
      // Before it has begun Node.js ends it, by the signal.
      else expect([130, null]).toContain(code);
      expect(statusOfVm()).toBe(code === 0 ? 'complete' : undefined);
      await startCli(['stop', 'web']).ended;
    }
  });

  it('says that QEMU has ended when it is killed while it is loaded', async () => {
    const restore = startCli(restoreArgs(), { env: { VMCKPT_PARK: 'loading' } });
    await untilParked(restore, 'loading');
    for (const pid of pidsOf(runtimeDir, 'qemu')) await killAndWait(pid);
    restore.kill('SIGCONT');
    expect(await restore.ended).toMatchObject({
      code: 1,
      json: {
        error: {
          message: expect.stringMatching(/^QEMU (ended \(SIGKILL\)|was killed by SIGKILL) /) as string,
        },
      },
    });
  });

  it('is refused with a command line of another machine, and with one that QEMU does not take', async () => {
    const args = guest.argv.slice(1);
    const smaller = args.map((word) => (word === '256M' ? '128M' : word));
    expect(await startRestore('--', ...smaller).ended).toMatchObject({
      code: 1,
      json: { error: { code: 'QEMU_FAILED_TO_START' } },
    });
    const extra = await startRestore('--', ...args, '-device', 'no-such-device').ended;
    expect(extra).toMatchObject({ code: 14, json: { error: { code: 'QEMU_INCOMPATIBLE' } } });
    expect(await startRestore('--', ...args).ended).toMatchObject({ code: 0 });
    await expectWhole();
  });
});

function hashOf(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}
