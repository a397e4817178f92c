import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, it, onTestFinished, vi } from 'vitest';
import type { MigrationSettings } from '../../src/qemu/migration-control.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { Store } from '../../src/store/store.js';
import type { ParkingPoint } from '../../src/util/park.js';
import { examineGuest, restoreGuest } from '../support/checkpointing.js';
import { startCli, type RunningCli } from '../support/command.js';
import {
  chooseSeed,
  pidsOf,
  Random,
  settingsOf,
  storeProblems,
  untilParked,
  untilSaid,
} from '../support/faults.js';
import { startGuest, type Guest } from '../support/guest.js';
import { killAndWait, killProcessesOf } from '../support/processes.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';

/** Kills per kind of save and QEMU. */
const ROUNDS = 4;
/** A little more than a save of the guest takes. */
const SAVE_MS = 1_500;
/** A little less than the stream of a running guest takes. */
const STREAM_MS = 200;
/** For a guest to come to memory that QEMU 7.2 has left protected. Whether it has makes no difference to what must hold. */
const FREEZE_MS = 500;
/** QEMU's own migration of a running VM, which needs a receiver. */
const STREAM = ['--live', 'background-snapshot'];
const KINDS = [
  ['of a running VM', []],
  ['of a running VM by the stream', STREAM],
  ['of a stopped VM', ['--stop']],
] as const;
const isRoot = process.getuid?.() === 0;

// A test is many kills, and each of them a save or a restore, on a machine that may be busy.
vi.setConfig({ testTimeout: 240_000 });

describeOnEachQemu('a save that is cut off', (qemu) => {
  const dir = suiteDirectory();
  const [storeDir, runtimeDir] = [path.join(dir, 'store'), path.join(dir, 'run')];
  const random = new Random(chooseSeed());
  let guest: Guest;
  let settings: MigrationSettings;

  beforeAll(async () => {
    console.info(`VMCKPT_SEED=${random.seed}`);
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    guest = await startGuest({ dir, qemu });
    await guest.waitReady();
    settings = await settingsOf(guest.qmpSocket);
  });
  // All of them have been found whole, and the next test would look at them again.
  afterEach(async () => {
    if (!existsSync(storeDir)) return;
    const store = await Store.open(storeDir);
    for (const old of (await store.generations('web')).slice(0, -1)) await store.remove(`web@${old}`);
  });
  afterAll(() => killProcessesOf(runtimeDir));

  function saveArgs(...flags: string[]): string[] {
    return ['--json', '--store', storeDir, 'save', `qmp:${guest.qmpSocket}`, 'web', ...flags];
  }

  function startSave(...flags: string[]): RunningCli {
    return startCli(saveArgs(...flags));
  }

  /** It goes no further before it gets SIGCONT. */
  async function startParked(point: ParkingPoint, ...flags: string[]): Promise<RunningCli> {
    const save = startCli(saveArgs(...flags), { env: { VMCKPT_PARK: point } });
    await untilParked(save, point);
    return save;
  }

  async function saveAgain(): Promise<void> {
    expect(await startSave().ended).toMatchObject({ code: 0, json: { name: 'web' } });
  }

  /** The VM runs on with all of its memory, and the store offers only what is whole. */
  async function expectUnharmed(): Promise<void> {
    await guest.console.nextHeartbeat();
    expect(await guest.console.verify()).toMatchObject({ ok: true, bad: 0 });
    expect(await storeProblems(storeDir)).toEqual([]);
  }

  /** …and nothing has to be put right any more. */
  async function expectAsBefore(): Promise<void> {
    await expectUnharmed();
    expect(await settingsOf(guest.qmpSocket)).toEqual(settings);
    const store = existsSync(storeDir) ? await Store.open(storeDir) : undefined;
    expect((await store?.leftovers()) ?? []).toEqual([]);
  }

  async function generations(): Promise<number> {
    return existsSync(storeDir) ? (await (await Store.open(storeDir)).generations('web')).length : 0;
  }

  /** Waits until some of the VM's memory has been stored. */
  async function streaming(save: RunningCli): Promise<void> {
    let over = false;
    void save.ended.then(() => (over = true));
    await until('a stream', () => over || storedBytes() > 0);
  }

  /** Of the generation that is being written. */
  function storedBytes(): number {
    const folder = path.join(storeDir, 'web');
    const pending = path.join(folder, filesIn(folder).find((entry) => entry.startsWith('.tmp-')) ?? '');
    const pack = path.join(pending, filesIn(pending).find((file) => file.startsWith('pack-')) ?? 'none');
    return statSync(pack, { throwIfNoEntry: false })?.size ?? 0;
  }

  async function killReceiver(): Promise<void> {
    for (const pid of pidsOf(runtimeDir, 'receiver')) await killAndWait(pid);
  }

  async function ask(command: 'cont' | 'query-status'): Promise<unknown> {
    const qmp = await QmpClient.connect({ path: guest.qmpSocket });
    try {
      return await qmp.execute(command);
    } finally {
      await qmp.close();
    }
  }

  const isPaused = async () => ((await ask('query-status')) as { status: string }).status === 'paused';

  it('by kill -9 while the VM runs leaves it running, and the next save puts everything right', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const isCapture = round % 2 === 0;
      const save = startSave(...(isCapture ? [] : STREAM));
      await random.pause(SAVE_MS);
      save.kill();
      await save.ended;
      // Except for a capture that was killed in its pause of milliseconds: ps says so.
      if (isCapture && (await isPaused()))
        expect((await startCli(['ps']).ended).stderr).toContain(`vmckpt rescue ${guest.pid} `);
      else await expectUnharmed();
      await saveAgain();
      await expectAsBefore();
    }
  });

  it('by kill -9 while the VM is stopped lets it run again with the next save', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const before = await generations();
      const save = startSave('--stop');
      await random.pause(SAVE_MS);
      save.kill();
      const { code } = await save.ended;
      // A generation may be complete although its process did not live to say so.
      if ((await generations()) > before) await ask('cont');
      if (code !== 0) await saveAgain();
      await expectAsBefore();
    }
  });

  it('by the death of its receiver ends well or as a failure, and the VM runs on', async () => {
    const save = startSave(...STREAM);
    await streaming(save);
    await random.pause(STREAM_MS);
    await killReceiver();
    const { code, json } = await save.ended;
    if (code !== 0) expect(json).toMatchObject({ error: { code: 'MIGRATION_FAILED' } });
    await expectAsBefore();
  });

  it('by the death of receiver and vmckpt together is put right by the next save', async () => {
    // Reads of a disk make QEMU's main loop, too, write to memory that version 7.2 leaves protected.
    for (const reads of [false, true, true]) {
      const save = startSave(...STREAM);
      await streaming(save);
      const disk = reads ? guest.console.diskIntact() : true;
      await random.pause(STREAM_MS);
      await killReceiver();
      save.kill();
      await save.ended;
      await sleep(FREEZE_MS);
      await saveAgain();
      expect(await disk).toBe(true);
      await expectAsBefore();
    }
  });

  it('by the death of receiver and vmckpt together is put right by vmckpt rescue', async () => {
    const save = await startParked('streaming', ...STREAM);
    await killReceiver();
    save.kill();
    await save.ended;
    await sleep(FREEZE_MS);
    const rescue = startCli(['--json', 'rescue', `${guest.pid}`, '--qmp', guest.qmpSocket]);
    expect(await rescue.ended).toMatchObject({ code: 0, json: { settingsPutRight: true } });
    await expectUnharmed();
    expect(await settingsOf(guest.qmpSocket)).toEqual(settings);
    await saveAgain();
    await expectAsBefore();
  });

  it.each(KINDS)('by Ctrl-C %s leaves everything as it was', async (_title, flags) => {
    const before = await generations();
    const save = await startParked('streaming', ...flags);
    save.kill('SIGINT');
    save.kill('SIGCONT');
    expect(await save.ended).toMatchObject({ code: 130, json: { error: { code: 'INTERRUPTED' } } });
    await expectAsBefore();
    expect(await generations()).toBe(before);
  });

  it.each(KINDS)(
    'by Ctrl-C twice %s ends at once, and the next save puts everything right',
    async (_title, flags) => {
      const before = await generations();
      const save = await startParked('streaming', ...flags);
      save.kill('SIGINT');
      await untilSaid(save, 'Press Ctrl-C again');
      save.kill('SIGINT');
      expect((await save.ended).code).toBe(130);
      expect(await generations()).toBe(before);
      await saveAgain();
      await expectAsBefore();
    },
  );

  it.each(KINDS)('by kill -9 %s before the generation has its number leaves none', async (_title, flags) => {
    const before = await generations();
    const save = await startParked('committing', ...flags);
    save.kill();
    await save.ended;
    expect(await generations()).toBe(before);
    await saveAgain();
    await expectAsBefore();
  });

  it.skipIf(!isRoot).each(KINDS)(
    'by a full disk %s leaves no trace (needs root to mount)',
    async (_title, flags) => {
      const small = path.join(dir, 'small');
      mkdirSync(small, { recursive: true });
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m,mode=0700', 'tmpfs', small]);
      onTestFinished(() => void execFileSync('umount', [small]));
      const args = ['--json', '--store', small, 'save', `qmp:${guest.qmpSocket}`, 'web', ...flags];
      expect(await startCli(args).ended).toMatchObject({ code: 1, json: { error: { code: 'NO_SPACE' } } });
      expect(readdirSync(small)).toEqual([]);
      await expectAsBefore();
    },
  );

  it('by another save of the same VM is not: one of them wins, the other one waits or says so', async () => {
    const results = await Promise.all([startSave().ended, startSave().ended]);
    const codes = results.map(({ code }) => code);
    expect(codes).toContain(0);
    expect(codes.filter((code) => code !== 0 && code !== 11)).toEqual([]);
    await expectAsBefore();
  });

  it('before it began, at a socket that is not QMP, says so', async () => {
    const socket = path.join(dir, 'other.sock');
    const server = net.createServer((client) => client.end('220 mail.example ready\r\n')).listen(socket);
    onTestFinished(() => void server.close());
    const args = ['--json', '--store', storeDir, 'save', `qmp:${socket}`, 'web'];
    expect(await startCli(args).ended).toMatchObject({ code: 1, json: { error: { code: 'QMP_NOT_QMP' } } });
  });

  it('has cost nothing: the last generation is restored to a guest that is whole, and saved again', async () => {
    const before = await guest.console.nextHeartbeat();
    await saveAgain();
    await guest.stop();
    const restored = await restoreGuest(guest, { storeDir, reference: 'web', qemu });
    expect(await examineGuest(restored.console, before)).toEqual({
      memory: true,
      disk: true,
      tmpfs: true,
      counter: true,
    });
    await saveAgain();
    await restored.stop();
  });

  it('by the death of QEMU says so and leaves no half generation', async () => {
    for (const [, flags] of KINDS) {
      const restored = await restoreGuest(guest, { storeDir, reference: 'web', qemu });
      const before = await generations();
      const save = await startParked('streaming', ...flags);
      await killAndWait(restored.pid);
      save.kill('SIGCONT');
      expect(await save.ended).toMatchObject({ code: 1, json: { error: { code: 'QEMU_DIED' } } });
      await restored.stop();
      expect(await generations()).toBe(before);
      expect(await storeProblems(storeDir)).toEqual([]);
      expect(await (await Store.open(storeDir)).leftovers()).toEqual([]);
      expect(
        existsSync(path.join(runtimeDir, 'saves')) ? readdirSync(path.join(runtimeDir, 'saves')) : [],
      ).toEqual([]);
    }
  });
});

/** None where the folder is not there, or has just got another name. */
function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
