import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, readFileSync, renameSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { Hints } from '../../src/checkpoint/hints.js';
import { takeUserfaultfds } from '../../src/native/index.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { encodeManifest, readManifest } from '../../src/checkpoint/manifest.js';
import { listVms, type VmSummary } from '../../src/vms/list.js';
import { VmFolder } from '../../src/vms/folder.js';
import { examineGuest, saveGuest } from '../support/checkpointing.js';
import { startCli, type RunningCli } from '../support/command.js';
import { Console, type Heartbeat } from '../support/console.js';
import {
  chooseSeed,
  killKeeper,
  killTransfer,
  parkedTransfer,
  pidsOf,
  Random,
  storeProblems,
  untilRunning,
} from '../support/faults.js';
import { startGuest, type Guest } from '../support/guest.js';
import { isAlive, killAndWait, killProcessesOf } from '../support/processes.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import type { ParkingPoint } from '../../src/util/park.js';
import { asRoot } from '../../src/util/rights.js';
import { readWorkingSet } from '../../src/working-set/file.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };
/** Kills of each kind and QEMU. */
const ROUNDS = 4;
/** A little more than the guest's memory takes to arrive. */
const FILL_MS = 500;
/** A little more than the guest takes to run. */
const RUN_MS = 400;

// A test is many kills, and each of them a save or a restore, on a machine that may be busy.
vi.setConfig({ testTimeout: 240_000 });

describeOnEachQemu('a restore', (qemu) => {
  const dir = suiteDirectory();
  const [storeDir, runtimeDir] = [path.join(dir, 'store'), path.join(dir, 'run')];
  const random = new Random(chooseSeed());
  let guest: Guest;
  let before: Heartbeat;

  beforeAll(async () => {
    console.info(`VMCKPT_SEED=${random.seed}`);
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    guest = await startGuest({ dir, qemu, fillMb: 64 });
    await guest.waitReady();
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'web' });
    await guest.stop();
  });
  afterEach(async () => {
    await startCli(['stop', 'web']).ended;
    await expectNothingLeft();
  });
  afterAll(() => killProcessesOf(runtimeDir));

  function restoreArgs(...flags: string[]): string[] {
    const own = ['--qemu', guest.argv[0]!, '--trust-command-line'];
    return ['--json', '--store', storeDir, 'restore', ...own, ...flags];
  }

  function startRestore(...flags: string[]): RunningCli {
    return startCli(restoreArgs(...flags));
  }

  function startResume(): RunningCli {
    return startCli(['--json', '--store', storeDir, 'restore', '--resume', 'web']);
  }

  async function expectWhole(): Promise<void> {
    const console = await Console.connect(guest.consoleSocket);
    try {
      expect(await examineGuest(console, before)).toEqual(WHOLE);
    } finally {
      console.close();
    }
  }

  /** No process, no folder, and a checkpoint as it was. */
  async function expectNothingLeft(): Promise<void> {
    await until('every process to end', () =>
      (['qemu', 'node', 'keeper'] as const).every((program) => pidsOf(runtimeDir, program).length === 0),
    );
    expect(existsSync(new VmFolder('web').directory)).toBe(false);
    expect(await storeProblems(storeDir)).toEqual([]);
  }

  /** Until a successor sends pages. A death before that, amid QEMU's own recovery, costs the VM on 7.2 (docs/soak.md). */
  async function servedAgain(name: string): Promise<void> {
    const folder = new VmFolder(name);
    const killed = folder.readTransfer()?.process.pid;
    await until('another process to serve', () => {
      const transfer = folder.readTransfer();
      if (transfer?.status === 'complete') return true;
      return transfer?.process.pid !== killed && (transfer?.counters?.['transferredBytes'] ?? 0) > 0;
    });
  }

  /** A restore whose VM runs and is served, and whose memory is not complete before its transfer gets SIGCONT. */
  async function startParked(...flags: string[]): Promise<{ restore: RunningCli; transferPid: number }> {
    const parked = await startParkedAt('background', ...flags);
    await untilRunning('web', parked.restore);
    return parked;
  }

  async function startParkedAt(
    point: ParkingPoint,
    ...flags: string[]
  ): Promise<{ restore: RunningCli; transferPid: number }> {
    const restore = startCli(restoreArgs(...flags, 'web'), { env: { VMCKPT_PARK: point } });
    return { restore, transferPid: await parkedTransfer('web', point) };
  }

  /** Nobody is left who could start another one. */
  async function loseTransfer(restore: RunningCli): Promise<void> {
    killKeeper('web');
    killTransfer('web');
    restore.kill();
    await restore.ended;
    await until('the loss to be noticed', () => statusOf('web') === 'transfer-lost');
  }

  async function untilComplete(): Promise<void> {
    await until('the memory to be complete', () => statusOf('web') === 'complete');
  }

  function statusOf(name: string): VmSummary['status'] | undefined {
    return listVms().find((vm) => vm.name === name)?.status;
  }

  it.each(['direct', 'stream'])(
    'whose transfer is killed goes on with another one (%s)',
    async (memoryPath) => {
      for (let round = 0; round < ROUNDS; round++) {
        const restore = startRestore('--path', memoryPath, 'web');
        await untilRunning('web', restore);
        for (let kill = 0; kill < 3; kill++) {
          await random.pause(FILL_MS / 3);
          killTransfer('web');
          await servedAgain('web');
        }
        expect(await restore.ended).toMatchObject({ code: 0, json: { name: 'web' } });
        await expectWhole();
        await startCli(['stop', 'web']).ended;
      }
    },
  );

  it('whose transfer and verb are killed goes on by itself', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const restore = startRestore('web');
      await untilRunning('web', restore);
      await random.pause(FILL_MS);
      restore.kill();
      killTransfer('web');
      await restore.ended;
      await untilComplete();
      await expectWhole();
      await startCli(['stop', 'web']).ended;
    }
  });

  it('whose transfer is killed teaches what its successor was asked for', async () => {
    const generationDir = path.join(storeDir, 'web/1');
    const { sizes, ram } = readManifest(generationDir);
    const learned = () =>
      readWorkingSet(Hints.beside(generationDir), sizes.ramBytes / ram.pageBytes).workingSet;
    const { restore } = await startParked();
    const { restoreCount } = learned();
    expect(killTransfer('web')).toBe(true);
    expect(await restore.ended).toMatchObject({ code: 0, json: { recoveries: 1 } });
    expect(learned()).toMatchObject({ restoreCount: restoreCount + 1, lastTrace: { isComplete: false } });
    await expectWhole();
  });

  it('whose keeper is killed does not notice', async () => {
    const { restore, transferPid } = await startParked();
    expect(killKeeper('web')).toBe(true);
    process.kill(transferPid, 'SIGCONT');
    expect(await restore.ended).toMatchObject({ code: 0, json: { recoveries: 0 } });
    await expectWhole();
  });

  it.each(['direct', 'stream'])(
    'whose keeper and transfer are killed is resumed (%s)',
    async (memoryPath) => {
      for (let round = 0; round < ROUNDS; round++) {
        const restore = startRestore('--path', memoryPath, 'web');
        await untilRunning('web', restore);
        await random.pause(FILL_MS / 2);
        killKeeper('web');
        killTransfer('web');
        if (random.next() < 0.5) restore.kill();
        await restore.ended;
        const status = await until('the loss to be noticed', () => {
          const found = statusOf('web');
          return (found === 'complete' || found === 'transfer-lost') && found;
        });
        if (status === 'transfer-lost')
          expect(await startResume().ended).toMatchObject({
            code: 0,
            json: { name: 'web' },
          });
        await untilComplete();
        await expectWhole();
        await startCli(['stop', 'web']).ended;
      }
    },
  );

  it('that an older vmckpt has begun is resumed, although its keeper knows only that one', async () => {
    const { restore, transferPid } = await startParked();
    const folder = new VmFolder('web');
    const { keeper } = folder.read()!;
    process.kill(keeper!.pid, 'SIGSTOP');
    process.kill(transferPid, 'SIGKILL');
    restore.kill();
    await restore.ended;
    const { order, ...known } = folder.read()!;
    const { preempt, capabilities, memory, hugePages, aftercare } = order!;
    const spread = { preempt, capabilities, memory, hugePages, aftercare };
    const older = { ...known, ...spread, version: undefined };
    writeFileSync(folder.file('vm.json'), JSON.stringify(older));
    await until('the loss to be noticed', () => statusOf('web') === 'transfer-lost');
    expect(await startResume().ended).toMatchObject({ code: 0, json: { recoveries: 1 } });
    await expectWhole();
  });

  it('whose keeper and transfer are killed is resumed by the stream where its userfaultfd cannot be told', async () => {
    const { restore } = await startParked('--path', 'direct');
    const folder = new VmFolder('web');
    await giveAnotherUserfaultfd(guest.qmpSocket);
    await loseTransfer(restore);
    expect(await startResume().ended).toMatchObject({ code: 0, json: { recoveries: 1 } });
    const said = readFileSync(folder.file('transfer.log'), 'utf8');
    expect(said).toContain("all of it goes through QEMU's stream");
    await expectWhole();
  });

  it('whose keeper and transfer are killed loses nothing by a resume that may not trace QEMU', async () => {
    const denying = path.join(dir, 'deny-pidfd-getfd');
    const source = path.join(import.meta.dirname, '../support/deny-pidfd-getfd.c');
    execFileSync('gcc', ['-Wall', '-Wextra', '-Werror', '-o', denying, source]);
    const { restore } = await startParked();
    await loseTransfer(restore);
    const resume = ['--json', '--store', storeDir, 'restore', '--resume', 'web'];
    expect((await startCli(resume, { wrapper: [denying] }).ended).code).not.toBe(0);
    expect(readFileSync(new VmFolder('web').file('transfer.log'), 'utf8')).toContain(
      asRoot('Resume', 'CAP_SYS_PTRACE'),
    );
    expect(await startCli(resume).ended).toMatchObject({ code: 0 });
    await expectWhole();
  });

  it('whose keeper and transfer are killed is neither saved nor resumed from another generation in the place of its own', async () => {
    const { restore } = await startParked();
    await loseTransfer(restore);
    const file = path.join(storeDir, 'web/1/manifest.json');
    const own = readFileSync(file);
    const saved = await startCli(['--json', 'save', `qmp:${guest.qmpSocket}`, 'again']).ended;
    expect(saved).toMatchObject({
      code: 11,
      json: { error: { hint: expect.stringContaining('vmckpt restore --resume web') as string } },
    });
    renameSync(path.dirname(file), `${storeDir}/moved`);
    expect(await startResume().ended).toMatchObject({
      code: 10,
      json: {
        error: {
          code: 'NO_CHECKPOINT',
          message: expect.stringContaining('is gone') as string,
          hint: expect.stringContaining('put that in its place') as string,
        },
      },
    });
    renameSync(`${storeDir}/moved`, path.dirname(file));
    const manifest = readManifest(path.dirname(file));
    writeFileSync(file, encodeManifest({ ...manifest, id: 'f'.repeat(32) }));
    expect(await startResume().ended).toMatchObject({
      code: 10,
      json: {
        error: { code: 'NO_CHECKPOINT', message: expect.stringContaining('another generation') as string },
      },
    });
    writeFileSync(file, own);
    expect(await startResume().ended).toMatchObject({ code: 0, json: { recoveries: 1 } });
    await expectWhole();
  });

  it('whose transfer hangs is resumed, once it has been silent for long', async () => {
    const { restore, transferPid } = await startParked();
    process.kill(transferPid, 'SIGSTOP');
    const folder = new VmFolder('web');
    restore.kill();
    await restore.ended;
    const refused = await startResume().ended;
    expect(refused).toMatchObject({ code: 1, json: { error: { code: 'VM_STATE' } } });
    const longAgo = Date.now() / 1000 - 60;
    utimesSync(folder.file('transfer.json'), longAgo, longAgo);
    expect(await startResume().ended).toMatchObject({ code: 0, json: { recoveries: 1 } });
    await expectWhole();
  });

  it('is taken over by one of two who try at the same moment', async () => {
    const { restore } = await startParked();
    await loseTransfer(restore);
    const resumes = [startResume().ended, startResume().ended];
    const [first, second] = (await Promise.all(resumes)).sort((a, b) => a.code! - b.code!);
    expect(first).toMatchObject({ code: 0, json: { name: 'web' } });
    expect(second).toMatchObject({ code: 1, json: { error: { code: 'VM_STATE' } } });
    await expectWhole();
  });

  it('whose state cannot be noted goes on all the same', async () => {
    const { restore, transferPid } = await startParkedAt('background', '--detach');
    expect((await restore.ended).code).toBe(0);
    const { directory } = new VmFolder('web');
    renameSync(directory, `${directory}-away`);
    const log = `${directory}-away/transfer.log`;
    await until('that to be noticed', () => readFileSync(log, 'utf8').includes('cannot be noted'));
    process.kill(transferPid, 'SIGCONT');
    await until('the transfer to end', () => !isAlive(transferPid));
    renameSync(`${directory}-away`, directory);
    await expectWhole();
  });

  it.each<[ParkingPoint, string]>([
    ['opened', 'lazy'],
    ['opened', 'eager'],
    ['loading', 'lazy'],
    ['loading', 'eager'],
  ])('whose transfer is killed at "%s" fails, and leaves nothing (%s)', async (point, mode) => {
    const { restore, transferPid } = await startParkedAt(point, '--mode', mode);
    process.kill(transferPid, 'SIGKILL');
    expect(await restore.ended).toMatchObject({ code: 1 });
    await expectNothingLeft();
  });

  it.each(['lazy', 'eager'])(
    'whose verb is killed, and whose transfer hangs, is ended by stop (%s)',
    async (mode) => {
      const { restore } = await startParkedAt('loading', '--mode', mode);
      restore.kill();
      await restore.ended;
      expect(await startRestore('web').ended).toMatchObject({
        code: 11,
        json: { error: { hint: expect.stringContaining('vmckpt stop web') as string } },
      });
      expect((await startCli(['stop', 'web']).ended).code).toBe(0);
      await expectNothingLeft();
    },
  );

  it.each(['lazy', 'eager'])('whose verb is killed behind its order goes on by itself (%s)', async (mode) => {
    const { restore, transferPid } = await startParkedAt('loading', '--mode', mode);
    restore.kill();
    await restore.ended;
    process.kill(transferPid, 'SIGCONT');
    await untilComplete();
    await expectWhole();
  });

  it('whose successor is killed before it has taken over gets another one', async () => {
    const env = { VMCKPT_PARK: 'background,taking-over' };
    const restore = startCli(restoreArgs('web'), { env });
    process.kill(await parkedTransfer('web', 'background'), 'SIGKILL');
    const second = await parkedTransfer('web', 'taking-over');
    process.kill(second, 'SIGKILL');
    process.kill(await parkedTransfer('web', 'taking-over', second), 'SIGCONT');
    expect(await restore.ended).toMatchObject({ code: 0, json: { recoveries: 2 } });
    await expectWhole();
  });

  it.each([false, true])(
    'whose transfer is killed when all is in place is complete (verb killed: %s)',
    async (isVerbKilled) => {
      const { restore, transferPid } = await startParkedAt('complete');
      if (isVerbKilled) restore.kill();
      process.kill(transferPid, 'SIGKILL');
      process.kill(await parkedTransfer('web', 'complete', transferPid), 'SIGCONT');
      if (!isVerbKilled) expect(await restore.ended).toMatchObject({ code: 0 });
      await untilComplete();
      await expectWhole();
    },
  );

  it.each(['lazy', 'eager'])('whose verb is killed early is made good by the next (%s)', async (mode) => {
    for (let round = 0; round < ROUNDS; round++) {
      const first = startRestore('--mode', mode, 'web');
      await random.pause(RUN_MS);
      first.kill();
      await first.ended;
      const next = await startRestore('--mode', mode, 'web').ended;
      // It may have come so far that the VM ran, or was about to: then it goes on without its verb.
      if (next.code !== 0) expect(next.json).toMatchObject({ error: { code: 'VM_BUSY' } });
      await untilComplete();
      expect(pidsOf(runtimeDir, 'qemu').length).toBe(1);
      await expectWhole();
      await startCli(['stop', 'web']).ended;
    }
  });

  it('whose verb, keeper and transfer are killed early is made good by what ps suggests', async () => {
    for (let round = 0; round < 2 * ROUNDS; round++) {
      const first = startRestore('web');
      await random.pause(RUN_MS);
      killKeeper('web');
      killTransfer('web');
      first.kill();
      await first.ended;
      // A transfer that was not killed, because it had noted nothing yet, may have been told to go on.
      // One that was killed serves for as long as its process takes to end.
      const status = await until('that to be decided', () => {
        const found = statusOf('web') ?? 'none';
        return !/^(starting|serving)$/.test(found) && found;
      });
      if (status !== 'complete') {
        const next = status === 'transfer-lost' ? startResume() : startRestore('web');
        expect(await next.ended).toMatchObject({ code: 0, json: { name: 'web' } });
      }
      await untilComplete();
      await expectWhole();
      await startCli(['stop', 'web']).ended;
    }
  });

  it('whose QEMU is killed before the VM runs says so and leaves nothing', async () => {
    const restore = startCli(restoreArgs('web'), { env: { VMCKPT_PARK: 'loading' } });
    await until('QEMU', () => pidsOf(runtimeDir, 'qemu')[0]);
    await random.pause(20);
    for (const pid of pidsOf(runtimeDir, 'qemu')) await killAndWait(pid);
    const { code, json } = await restore.ended;
    expect({ code, json }).toMatchObject({
      code: 1,
      json: { error: { code: expect.stringMatching(/^QEMU_(DIED|FAILED_TO_START)$/) as string } },
    });
    await expectNothingLeft();
  });

  it('whose QEMU is killed while its memory arrives says so, and can be done again', async () => {
    const { restore } = await startParked();
    await killAndWait(new VmFolder('web').read()!.qemu!.pid);
    expect(await restore.ended).toMatchObject({ code: 1, json: { error: { code: 'QEMU_DIED' } } });
    expect(statusOf('web')).toBe('ended');
    expect(await startRestore('web').ended).toMatchObject({ code: 0, json: { recoveries: 0 } });
    await expectWhole();
  });

  it.each([
    [
      'with other RAM',
      ['-m', '300M'],
      /expected RAM block "pc.ram" of 268435456 bytes, found 314572800 bytes/,
    ],
    ['of another machine type', ['-machine', 'pc'], /expected machine type pc-q35-\S+, found pc-i440fx-\S+/],
  ])('into a QEMU %s is refused before the VM runs', async (_title, changed, difference) => {
    const { code, json } = await startRestore('web', '--', ...replaced(guest.argv.slice(1), changed)).ended;
    expect({ code, json }).toMatchObject({
      code: 14,
      json: { error: { code: 'QEMU_INCOMPATIBLE', message: expect.stringMatching(difference) as string } },
    });
    await expectNothingLeft();
  });

  it('that is interrupted before the VM runs leaves nothing', async () => {
    const restore = startCli(restoreArgs('web'), { env: { VMCKPT_PARK: 'loading' } });
    await until('QEMU', () => pidsOf(runtimeDir, 'qemu')[0]);
    restore.kill('SIGINT');
    expect(await restore.ended).toMatchObject({ code: 130, json: { error: { code: 'INTERRUPTED' } } });
    await expectNothingLeft();
  });

  it('that is interrupted when the VM runs leaves it and the process that serves it', async () => {
    const { restore, transferPid } = await startParked();
    restore.kill('SIGINT');
    expect(await restore.ended).toMatchObject({
      code: 130,
      json: {
        error: {
          code: 'INTERRUPTED',
          message: expect.stringContaining('"web" is restored and stays') as string,
          hint: expect.stringContaining('vmckpt stop web') as string,
        },
      },
    });
    expect(statusOf('web')).toBe('serving');
    process.kill(transferPid, 'SIGCONT');
    await untilComplete();
    await expectWhole();
  });
});

/** The arguments with the value of one option replaced. */
function replaced(args: readonly string[], [option, value]: readonly string[]): string[] {
  return args.map((arg, i) => (args[i - 1] === option ? value! : arg));
}

/** So that it has two, and nobody can tell which of them its memory waits at. */
async function giveAnotherUserfaultfd(qmpSocket: string): Promise<void> {
  // userfaultfd(2) of x86-64
  const maker = spawn('perl', ['-e', '$| = 1; syscall(323, 0) >= 0 or die; print "made"; sleep 60']);
  await once(maker.stdout, 'data');
  const [fd] = takeUserfaultfds(maker.pid!);
  maker.kill();
  const monitor = await QmpClient.connect({ path: qmpSocket });
  await monitor.execute('getfd', { fdname: 'another' }, { fd: fd! });
  await monitor.close();
  closeSync(fd!);
}
