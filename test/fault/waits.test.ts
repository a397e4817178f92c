/**
 * Whoever waits for a process notices its death, however it was parked before: each process of a restore, and QEMU during
 * a save, is stopped as soon as it is there, and killed a second later with words unread in its sockets. Each wait has a
 * deadline as well (VMCKPT_DEBUG=deadline shows those that have passed): a verb that comes to one has noticed nothing.
 */
import { execFileSync } from 'node:child_process';
import { constants, openSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { endProcess, startQemu, TINY, connectWhenReady } from '../integration/qemu-helper.js';
import { startCli, type CliResult, type RunningCli } from '../support/command.js';
import { isAlive, killProcessesOf, runningPids } from '../support/processes.js';
import { until } from '../support/until.js';
import { suiteDirectory } from '../support/vitest.js';

/** For the others to come to what is stopped. Whether they have makes no difference to what must hold. */
const PARKED_MS = 1_000;
const PARTIES = {
  transfer: /^\S*node \S*dist\/serving\/main\.js/,
  keeper: /^\S*vmckpt-keeper/,
  qemu: /^\S*qemu-system/,
} as const;
type Party = keyof typeof PARTIES;

vi.setConfig({ testTimeout: 180_000 });

describe('a verb', () => {
  const dir = suiteDirectory();
  const [storeDir, runtimeDir] = [path.join(dir, 'store'), path.join(dir, 'run')];
  const env = { VMCKPT_STORE: storeDir, VMCKPT_RUNTIME_DIR: runtimeDir, VMCKPT_DEBUG: 'deadline' };

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
    const { code, json } = await endedAtOnce(verb);
    // A keeper that dies alone is not missed.
    if (code !== 0)
      expect(json).toMatchObject({ error: { code: expect.stringMatching(/FAILED|DIED/) as string } });
  });

  it('that undoes a restore does not wait for a keeper that hangs', async () => {
    const verb = startCli(['--json', 'restore', '--trust-command-line', 'tiny'], {
      env: { ...env, VMCKPT_DEBUG: 'deadline,keeper' },
    });
    const qemu = await park('qemu', verb);
    // Until then it is the only one that can tell of QEMU.
    const log = path.join(runtimeDir, 'vms/tiny/transfer.log');
    const isTold = () => readFileSync(log, 'utf8').includes(`keeper: started ${qemu}\n`);
    await until('the keeper to tell of QEMU', isTold);
    const keeper = await park('keeper', verb);
    await sleep(PARKED_MS);
    process.kill(qemu, 'SIGKILL');
    expect(await endedAtOnce(verb)).not.toMatchObject({ code: 0 });
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
      onTestFinished(() => endProcess(qemu));
      await (await connectWhenReady(socket)).close();
      // It has heard of the end of that connection.
      await until('it to listen, and no more', () => socketsAt(socket) === 1);
      process.kill(qemu.pid!, 'SIGSTOP');
      const [verb, ...rest] = flags.filter((flag) => flag !== undefined);
      const saving = start('--json', verb!, ...rest, `qmp:${socket}`, 'parked');
      await until('the verb to connect', () => socketsAt(socket) === 2);
      await endProcess(qemu);
      expect(await endedAtOnce(saving)).toMatchObject({ code: 1, json: { error: { code: 'QMP_CLOSED' } } });
    },
  );

  it('that saves names a QEMU that is stopped', async () => {
    const socket = path.join(dir, 'stopped.sock');
    const qemu = startQemu([...TINY, '-qmp', `unix:${socket},server=on,wait=off`], dir);
    await (await connectWhenReady(socket)).close();
    process.kill(qemu.pid!, 'SIGSTOP');
    const { json, code, stderr } = await start('--json', 'save', `qmp:${socket}`, 'stopped').ended;
    await endProcess(qemu);
    // The one wait here that comes to its deadline; none of the others is seen to, because none does.
    expect(stderr).toMatch(/ deadline: waited \d+ ms for the QMP greeting\n/);
    const message = expect.stringContaining(`process ${qemu.pid} (qemu-system-x86) is stopped`) as string;
    const hint = expect.stringContaining(`kill -CONT ${qemu.pid}`) as string;
    expect([code, json]).toEqual([1, { error: { code: 'VM_STATE', message, hint } }]);
  });

  it('that learns does not wait for a probe when its VM has died', async () => {
    // Only ours is called like that.
    const command = `sleep 1000.${process.pid}`;
    const verb = start('--json', 'learn', '--trust-command-line', '--runs', '1', '--probe', command, 'tiny');
    const probe = await until('the probe', () => pidOf(new RegExp(`^sh -c ${command}`)));
    process.kill(-probe, 'SIGSTOP');
    process.kill(pidOf(PARTIES.qemu, isOurs)!, 'SIGKILL');
    expect(await endedAtOnce(verb)).not.toMatchObject({ code: 0 });
    await until('the probe to end', () => !isAlive(probe));
  });

  const isOurs = (pid: number) => readProcess(pid, 'environ').includes(`VMCKPT_STORE=${storeDir}\0`);

  const untilThere = (party: Party, isWanted: (pid: number) => boolean) =>
    until(party, () => pidOf(PARTIES[party], (pid) => isOurs(pid) && isWanted(pid)));

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

/** The one that listens, and its end of each connection, accepted or not. */
function socketsAt(socket: string): number {
  return readFileSync('/proc/net/unix', 'latin1').split(` ${socket}\n`).length - 1;
}

/** Not because it had waited for long enough. */
async function endedAtOnce(verb: RunningCli): Promise<CliResult> {
  const result = await verb.ended;
  expect(result.stderr).not.toContain(' deadline: ');
  return result;
}

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
