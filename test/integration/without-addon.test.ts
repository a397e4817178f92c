/** Everything that works without the addon, as a user does it, and that what does not says so. */
import { closeSync, openSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { substitutes } from '../../src/native/substitutes.js';
import { LockFile } from '../../src/store/lock-file.js';
import type { ParkingPoint } from '../../src/util/park.js';
import { listVms } from '../../src/vms/list.js';
import { examineGuest, saveGuest } from '../support/checkpointing.js';
import { cliSuite } from '../support/cli.js';
import { startCli, type RunningCli } from '../support/command.js';
import { Console, type Heartbeat } from '../support/console.js';
import {
  chooseSeed,
  killTransfer,
  parkedTransfer,
  pidsOf,
  Random,
  settingsOf,
  storeProblems,
  untilParked,
  untilRunning,
} from '../support/faults.js';
import { startGuest, type Guest } from '../support/guest.js';
import { isAlive, killAndWait, killProcessesOf } from '../support/processes.js';
import { storeGeneration } from '../support/stored.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';

const env = { VMCKPT_NATIVE: 'none' };
/** A little more than the guest's memory takes to arrive. */
const FILL_MS = 500;
const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };

describeOnEachQemu('without the addon a guest', (qemu) => {
  const dir = suiteDirectory();
  const [storeDir, runtimeDir] = [path.join(dir, 'store'), path.join(dir, 'run')];
  let guest: Guest;
  let before: Heartbeat;

  beforeAll(async () => {
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    guest = await startGuest({ dir, qemu, fillMb: 64 });
    await guest.waitReady();
    before = await guest.console.nextHeartbeat();
  });
  afterEach(async () => {
    await start(['stop', 'web']).ended;
  });
  afterAll(() => killProcessesOf(runtimeDir));

  function start(args: readonly string[], park?: ParkingPoint): RunningCli {
    const parked = park === undefined ? {} : { VMCKPT_PARK: park };
    return startCli(['--json', '--store', storeDir, ...args], { env: { ...env, ...parked } });
  }

  const saveArgs = (...flags: string[]) => ['save', ...flags, `qmp:${guest.qmpSocket}`, 'web'];
  const restoreArgs = (...args: string[]) => [
    ...['restore', '--qemu', guest.argv[0]!, '--trust-command-line'],
    ...args,
  ];
  const startSave = (...flags: string[]): RunningCli => start(saveArgs(...flags));
  const startRestore = (...args: string[]): RunningCli => start(restoreArgs(...args));

  async function expectWhole(): Promise<void> {
    const console = await Console.connect(guest.consoleSocket);
    try {
      expect(await examineGuest(console, before)).toEqual(WHOLE);
    } finally {
      console.close();
    }
  }

  it('is saved while it runs, and runs on', async () => {
    const settings = await settingsOf(guest.qmpSocket);
    expect(await startSave().ended).toMatchObject({ code: 0, json: { generation: 1 } });
    const { n } = guest.console.last!;
    expect((await guest.console.nextHeartbeat()).n).toBeGreaterThanOrEqual(n);
    expect(await settingsOf(guest.qmpSocket)).toEqual(settings);
  });

  it('runs on when the save is killed, or interrupted', async () => {
    for (const [point, signal] of [
      ['streaming', 'SIGKILL'],
      ['committing', 'SIGKILL'],
      ['streaming', 'SIGINT'],
    ] as const) {
      const save = start(saveArgs(), point);
      await untilParked(save, point);
      save.kill(signal);
      save.kill('SIGCONT');
      expect((await save.ended).code).toBe(signal === 'SIGINT' ? 130 : null);
      await guest.console.nextHeartbeat();
    }
    const last = await startSave('--stop').ended;
    expect(last.stderr).toBe('');
    expect(last.code).toBe(0);
    await until('every receiver to end', () => pidsOf(runtimeDir, 'node').length === 0);
    expect(await storeProblems(storeDir)).toEqual([]);
    expect(await start(['check']).ended).toMatchObject({ code: 0 });
    await guest.stop();
  });

  it.each([
    ['lazily', 'web@1', 'lazy'],
    ['with what stands for a prediction', 'web@1', 'prefetch'],
    ['eagerly', 'web@1', 'eager'],
    ['from the stopped save', 'web', 'lazy'],
  ])('is restored %s', async (_title, reference, mode) => {
    const { code, json, stderr } = await startRestore('--run', '--mode', mode, reference).ended;
    expect({ code, stderr, json }).toMatchObject({ code: 0, json: { mode, path: 'stream', recoveries: 0 } });
    await expectWhole();
    expect(await start(['ps']).ended).toMatchObject({ json: { vms: [{ name: 'web', status: 'complete' }] } });
    expect(await start(['stop', 'web']).ended).toMatchObject({ code: 0, json: { endedBy: 'quit' } });
  });

  it('cannot be restored directly, and is told why', async () => {
    expect(await startRestore('--path', 'direct', 'web').ended).toMatchObject({
      code: 14,
      json: {
        error: {
          code: 'DIRECT_REFUSED',
          message: expect.stringContaining('the native addon, which is missing') as string,
        },
      },
    });
  });

  it('does not notice when its transfer is killed', async () => {
    const parked = start(restoreArgs('--mode', 'lazy', 'web@1'), 'background');
    process.kill(await parkedTransfer('web', 'background'), 'SIGKILL');
    const { code, json, stderr } = await parked.ended;
    expect({ code, stderr, json }).toMatchObject({ code: 0, json: { recoveries: 1 } });
    await expectWhole();
    await start(['stop', 'web']).ended;

    const random = new Random(chooseSeed());
    console.info(`VMCKPT_SEED=${random.seed}`);
    const restore = startRestore('--mode', 'lazy', 'web@1');
    await untilRunning('web', restore);
    await random.pause(FILL_MS);
    killTransfer('web');
    expect(await restore.ended).toMatchObject({ code: 0 });
    await expectWhole();
  });

  it('is resumed when transfer and verb are gone', async () => {
    const restore = start(restoreArgs('web@1'), 'background');
    const transfer = await parkedTransfer('web', 'background');
    await untilRunning('web', restore);
    restore.kill();
    await restore.ended;
    await killAndWait(transfer);
    expect(await start(['ps']).ended).toMatchObject({ json: { vms: [{ status: 'transfer-lost' }] } });
    const { code, json, stderr } = await start(['restore', '--resume', 'web']).ended;
    expect({ code, stderr, json }).toMatchObject({ code: 0, json: { recoveries: 1 } });
    await expectWhole();
  });

  it('lives on by itself after --detach, and can be saved with the addon', async () => {
    const { json } = await startRestore('--detach', 'web@1').ended;
    const { qemuPid } = json as { qemuPid: number };
    await until('the memory to be complete', () => listVms()[0]?.status === 'complete');
    expect(await saveGuest(guest, { storeDir, name: 'web' })).toMatchObject({ name: 'web' });
    await expectWhole();
    expect(isAlive(qemuPid)).toBe(true);
  });
});

describe('without the addon', () => {
  const { run, storeDir } = cliSuite();

  it.each([
    ['rescue', String(process.pid)],
    ['uffd', 'web', '--socket', '/tmp/none'],
  ])('%s says what is missing', async (...args) => {
    expect(await run(['--json', ...args], { env })).toMatchObject({
      code: 1,
      json: {
        error: {
          code: 'NATIVE_MISSING',
          message: expect.stringContaining(`vmckpt ${args[0]} needs the native addon`) as string,
          hint: expect.stringContaining('VMCKPT_NATIVE') as string,
        },
      },
    });
  });

  it('doctor says what that costs, and how to mend it', async () => {
    const { json } = await run(['--json', 'doctor'], { env });
    const { checks } = json as { checks: { check: string }[] };
    expect(checks).toContainEqual(
      expect.objectContaining({ check: 'addon', status: 'warn', remedy: 'unset VMCKPT_NATIVE' }),
    );
    expect(checks).toContainEqual(expect.objectContaining({ check: 'perl', status: 'ok' }));
    expect(checks).toContainEqual(expect.objectContaining({ check: 'lazy-restore' }));
  });

  it('writers exclude those that have it, and are excluded by them', async () => {
    await storeGeneration(storeDir, 'web');
    const remove = ['--json', 'rm', 'web@1'];
    const refused = { code: 11, json: { error: { code: 'STORE_LOCKED' } } };
    const lock = LockFile.tryTake(path.join(storeDir, 'web', 'lock'))!;
    expect(await run(remove, { env })).toMatchObject(refused);
    lock.release();
    const held = openSync(path.join(storeDir, 'web', 'lock'), 'r+');
    expect(substitutes.tryLockFile(held)).toBe(true);
    expect(await run(remove)).toMatchObject(refused);
    closeSync(held);
    expect(await run(remove, { env })).toMatchObject({ code: 0 });
  });

  it('checkpoints are checked, shown, exported and imported', async () => {
    await storeGeneration(storeDir, 'copy');
    for (const args of [['list'], ['show', 'copy'], ['check', 'copy']])
      expect(await run(['--json', ...args], { env })).toMatchObject({ code: 0 });
    const memory = path.join(storeDir, '..', 'memory');
    writeFileSync(memory, Buffer.alloc(1 << 20, 'vmckpt'));
    truncateSync(memory, 4 << 20);
    const imported = await run(['--json', 'import', '--raw-memory', memory, 'bare'], { env });
    expect(imported).toMatchObject({ code: 0, json: { ramBytes: 4 << 20, nonZeroBytes: 1 << 20 } });
    expect(await run(['check', 'bare'])).toMatchObject({ code: 0 });
  });
});
