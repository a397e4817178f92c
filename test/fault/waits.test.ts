/**
 * Whoever waits for a process notices its death, however it was parked before: each process of a restore, and QEMU during
 * a save, is stopped as soon as it is there, and killed a second later with words unread in its sockets.
 */
import { readFileSync } from 'node:fs';
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

  /** Stops the process as soon as it is there. */
  async function park(party: Party, verb: RunningCli): Promise<number> {
    const ours = (pid: number) =>
      pid !== verb.pid && readProcess(pid, 'environ').includes(`VMCKPT_RUNTIME_DIR=${runtimeDir}\0`);
    const pid = await poll(() => pidOf(PARTIES[party], ours), { what: party, timeoutMs: 60_000, everyMs: 1 });
    process.kill(pid, 'SIGSTOP');
    return pid;
  }
});

/** By the command line. */
function pidOf(command: RegExp, isWanted: (pid: number) => boolean = () => true): number | undefined {
  return runningPids().find(
    (pid) => command.test(readProcess(pid, 'cmdline').replaceAll('\0', ' ')) && isWanted(pid),
  );
}

function readProcess(pid: number, file: 'cmdline' | 'environ'): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return ''; // it has ended
  }
}
