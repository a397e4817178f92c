/**
 * Whoever waits for a process notices its death, however it was parked before: each process of a restore, and QEMU during
 * a save, is stopped as soon as it is there, and killed a second later with words unread in its sockets.
 */
import { execFileSync } from 'node:child_process';
import { constants, openSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { poll } from '../../src/util/deadline.js';
import { endProcess, startQemu, TINY, connectWhenReady } from '../integration/qemu-helper.js';
import { startCli, type CliResult, type RunningCli } from '../support/command.js';
import { isAlive, killProcessesOf, runningPids } from '../support/processes.js';
import { suiteDirectory } from '../support/vitest.js';

/** Half of the shortest deadline on the way: ten seconds, for a keeper to start QEMU and for an answer of QEMU's. */
const AT_ONCE_MS = 5_000;
const PARKED_MS = 1_000;
const PARTIES = {
  transfer: /^\S*node \S*dist\/serving\/main\.js/,
  keeper: /^\S*vmckpt-keeper/,
  qemu: /^\S*qemu-system/,
} as const;
type Party = keyof typeof PARTIES;

vi.setConfig({ testTimeout: 120_000 });

describe('a verb', () => {
  const dir = suiteDirectory();
  const [storeDir, runtimeDir] = [path.join(dir, 'store'), path.join(dir, 'run')];
  const env = { VMCKPT_STORE: storeDir, VMCKPT_RUNTIME_DIR: runtimeDir };

  beforeAll(async () => {
    const socket = path.join(dir, 'tiny.sock');
    const qemu = startQemu([...TINY, '-qmp', `unix:${socket},server=on,wait=off`], dir);
    await (await connectWhenReady(socket)).close();
    expect(await run('save', `qmp:${socket}`, 'tiny')).toMatchObject({ code: 0 });
    await endProcess(qemu);
  });
  afterEach(() => run('stop', 'tiny'));
  afterAll(() => killProcessesOf(runtimeDir));

  const start = (...args: string[]): RunningCli => startCli(args, { env });
  const run = (...args: string[]): Promise<CliResult> => start(...args).ended;

  it.each<[Party[], string[]]>([
    [['transfer'], []],
    [['keeper'], []],
    [['qemu'], []],
    [['transfer', 'keeper'], []],
    [['qemu', 'transfer', 'keeper'], []],
    [
      ['transfer', 'keeper'],
      ['--mode', 'eager'],
    ],
    [['qemu'], ['--mode', 'eager']],
    [
      ['transfer', 'qemu'],
      ['--path', 'stream'],
    ],
  ])('that restores ends with the death of its %j (%j)', async (parties, flags) => {
    const verb = start('--json', 'restore', '--trust-command-line', ...flags, 'tiny');
    const pids: number[] = [];
    for (const party of parties) pids.push(await park(party, verb));
    await sleep(PARKED_MS);
    for (const pid of pids) process.kill(pid, 'SIGKILL');
    const killedAtMs = performance.now();
    const { code, json } = await verb.ended;
    expect(performance.now() - killedAtMs).toBeLessThan(AT_ONCE_MS);
    // A keeper that dies alone is not missed.
    if (code !== 0)
      expect(json).toMatchObject({ error: { code: expect.stringMatching(/FAILED|DIED/) as string } });
  });

  it('that undoes a restore does not wait for a keeper that hangs', async () => {
    const verb = start('--json', 'restore', '--trust-command-line', 'tiny');
    const qemu = await park('qemu', verb);
    const keeper = await park('keeper', verb);
    await sleep(PARKED_MS);
    process.kill(qemu, 'SIGKILL');
    const killedAtMs = performance.now();
    expect(await verb.ended).not.toMatchObject({ code: 0 });
    expect(performance.now() - killedAtMs).toBeLessThan(AT_ONCE_MS);
    expect(isAlive(keeper)).toBe(false);
  });

  it('that restores ends a QEMU that its keeper did not live to tell of', async () => {
    const { verb, child, goOn } = await killKeeperWhileItStartsQemu();
    goOn();
    expect(await verb.ended).toMatchObject({ code: 1, json: { error: { code: 'QEMU_FAILED_TO_START' } } });
    expect(isAlive(child)).toBe(false);
  });

  it('that restores waits for a QEMU that was being started when the verb before it and its keeper were killed', async () => {
    const { verb: killed, child, goOn } = await killKeeperWhileItStartsQemu();
    process.kill(pidOf(PARTIES.transfer, isOurs)!, 'SIGKILL');
    killed.kill();
    await killed.ended;
    const verb = start('--json', 'restore', '--trust-command-line', 'tiny');
    await sleep(PARKED_MS);
    goOn();
    expect(await verb.ended).toMatchObject({ code: 0 });
    expect(isAlive(child)).toBe(false);
  });

  it.each([['save'], ['save', '--stop'], ['save', '--live', 'precopy']])(
    'that saves (%s %s %s) ends with the death of QEMU',
    async (...flags) => {
      const socket = path.join(dir, 'parked.sock');
      const qemu = startQemu([...TINY, '-qmp', `unix:${socket},server=on,wait=off`], dir);
      await (await connectWhenReady(socket)).close();
      process.kill(qemu.pid!, 'SIGSTOP');
      const [verb, ...rest] = flags.filter((flag) => flag !== undefined);
      const saving = start('--json', verb!, ...rest, `qmp:${socket}`, 'parked');
      await sleep(PARKED_MS);
      await endProcess(qemu);
      const killedAtMs = performance.now();
      expect(await saving.ended).toMatchObject({ code: 1, json: { error: { code: 'QMP_CLOSED' } } });
      expect(performance.now() - killedAtMs).toBeLessThan(AT_ONCE_MS);
    },
  );

  it('that saves names a QEMU that is stopped', async () => {
    const socket = path.join(dir, 'stopped.sock');
    const qemu = startQemu([...TINY, '-qmp', `unix:${socket},server=on,wait=off`], dir);
    await (await connectWhenReady(socket)).close();
    process.kill(qemu.pid!, 'SIGSTOP');
    const { json, code } = await start('--json', 'save', `qmp:${socket}`, 'stopped').ended;
    await endProcess(qemu);
    const message = expect.stringContaining(`process ${qemu.pid} (qemu-system-x86) is stopped`) as string;
    const hint = expect.stringContaining(`kill -CONT ${qemu.pid}`) as string;
    expect([code, json]).toEqual([1, { error: { code: 'VM_STATE', message, hint } }]);
  });

  it('that learns does not wait for a probe when its VM has died', async () => {
    const verb = start(
      '--json',
      'learn',
      '--trust-command-line',
      '--runs',
      '1',
      '--probe',
      'sleep 1000',
      'tiny',
    );
    const probe = await poll(() => pidOf(/^sh -c sleep 1000/), {
      what: 'the probe',
      timeoutMs: 60_000,
      everyMs: 20,
    });
    process.kill(-probe, 'SIGSTOP');
    const inside = (pid: number) => /(^|\0)VMCKPT_ISOLATED=1/.test(readProcess(pid, 'environ'));
    const qemu = pidOf(PARTIES.qemu, inside)!;
    process.kill(qemu, 'SIGKILL');
    const killedAtMs = performance.now();
    expect(await verb.ended).not.toMatchObject({ code: 0 });
    expect(performance.now() - killedAtMs).toBeLessThan(2 * AT_ONCE_MS);
    expect(isAlive(probe)).toBe(false);
  });

  const isOurs = (pid: number) => readProcess(pid, 'environ').includes(`VMCKPT_RUNTIME_DIR=${runtimeDir}\0`);

  const untilThere = (party: Party, isWanted: (pid: number) => boolean) =>
    poll(() => pidOf(PARTIES[party], (pid) => isOurs(pid) && isWanted(pid)), {
      what: party,
      timeoutMs: 60_000,
      everyMs: 1,
    });

  /** Stops the process as soon as it is there. */
  async function park(party: Party, verb: RunningCli): Promise<number> {
    const pid = await untilThere(party, (found) => found !== verb.pid);
    process.kill(pid, 'SIGSTOP');
    return pid;
  }

  /** A restore whose keeper is killed while its child waits for a reader of QEMU's log, which `goOn` is: then that becomes QEMU. */
  async function killKeeperWhileItStartsQemu() {
    const log = path.join(dir, `log-${performance.now()}`);
    execFileSync('mkfifo', [log]);
    const gate = `${log}.cjs`;
    writeFileSync(
      gate,
      `const processes = require('child_process'), { spawn } = processes;
      processes.spawn = (program, ...rest) => {
        if (program.endsWith('vmckpt-keeper'))
          require('fs').linkSync('${log}', '${path.join(runtimeDir, 'vms/tiny/qemu.log')}');
        return spawn(program, ...rest);
      };
      require('module').syncBuiltinESMExports();`,
    );
    const verb = startCli(['--json', 'restore', '--trust-command-line', 'tiny'], {
      env: { ...env, NODE_OPTIONS: `--require ${gate}` },
    });
    // A server that has just been forked looks like that child as well.
    await untilThere('transfer', () => true);
    const isChild = (pid: number) => PARTIES.keeper.test(readProcess(parentOf(pid), 'cmdline'));
    const child = await untilThere('keeper', isChild);
    process.kill(parentOf(child), 'SIGKILL');
    return { verb, child, goOn: () => openSync(log, constants.O_RDONLY | constants.O_NONBLOCK) };
  }
});

/** By the command line. */
function pidOf(command: RegExp, isWanted: (pid: number) => boolean = () => true): number | undefined {
  return runningPids().find(
    (pid) => command.test(readProcess(pid, 'cmdline').replaceAll('\0', ' ')) && isWanted(pid),
  );
}

function parentOf(pid: number): number {
  return Number(/\) \S (\d+)/.exec(readProcess(pid, 'stat'))?.[1]);
}

function readProcess(pid: number, file: 'cmdline' | 'environ' | 'stat'): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return ''; // it has ended
  }
}
