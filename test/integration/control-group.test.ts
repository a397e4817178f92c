/** Verbs in a control group that is killed, as systemd does with that of a service which has ended. */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { listVms } from '../../src/vms/list.js';
import type { RestoreReport } from '../../src/restore/report.js';
import { controlGroupsOf } from '../../src/util/control-groups.js';
import { scopeRequest } from '../../src/util/leave-control-group.js';
import { useOwnFolders } from '../support/checkpointing.js';
import { startCli, type CliOptions } from '../support/command.js';
import { untilParked } from '../support/faults.js';
import {
  isAlive,
  killAndWait,
  killAtExit,
  runningPids,
  spawnTracked,
  waitUntilGone,
} from '../support/processes.js';
import { until } from '../support/until.js';
import { suiteDirectory } from '../support/vitest.js';
import { connectWhenReady, QEMU, TINY } from './qemu-helper.js';

/** Of version 2; undefined where groups cannot be made or killed by hand. */
const root = controlGroupsOf('self').find(({ controllers }) => controllers.length === 0)?.mountPoint;
const usable = root !== undefined && process.getuid?.() === 0 && !existsSync('/run/systemd/system');

describe.runIf(usable)('in a control group that is killed (needs root, cgroup v2 and no systemd)', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const qmpSocket = path.join(dir, 'qmp');
  const parent = path.join(root ?? '', `vmckpt-test-${process.pid}`);
  const unit = path.join(parent, 'job.service');
  const inUnit = ['sh', '-c', `echo $$ >${unit}/cgroup.procs; exec "$0" "$@"`];
  const start = (args: readonly string[], options: CliOptions = {}) =>
    startCli(['--store', storeDir, '--json', ...args], { wrapper: inUnit, ...options });
  const killUnit = () => writeFileSync(path.join(unit, 'cgroup.kill'), '1');
  const membersOf = (folder: string) =>
    readFileSync(path.join(folder, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);

  async function saveTiny(name: string, place: readonly string[] = []): Promise<void> {
    const child = spawnTracked(
      [...place, QEMU, ...TINY, '-qmp', `unix:${qmpSocket},server=on,wait=off`],
      path.join(dir, 'log'),
    );
    await (await connectWhenReady(qmpSocket, false)).close();
    const save = ['--store', storeDir, '--json', 'save', `qmp:${qmpSocket}`, name];
    expect(await startCli(save, { wrapper: [...place, ...inUnit] }).ended).toMatchObject({ code: 0 });
    await killAndWait(child.pid);
  }

  beforeAll(async () => {
    mkdirSync(unit, { recursive: true });
    await saveTiny('web');
  });
  afterAll(async () => {
    for (const folder of [unit, path.join(parent, 'vmckpt'), parent])
      if (existsSync(folder)) rmdirSync(folder);
  });

  it.each([['lazy'], ['eager']])(
    'a restored VM lives on, with what serves its memory: --mode %s',
    async (mode) => {
      const { code, json } = await start(['restore', 'web', '--detach', '--mode', mode]).ended;
      expect(code).toBe(0);
      const { qemuPid } = json as RestoreReport;
      killAtExit(qemuPid!);
      expect(membersOf(unit)).toEqual([]);
      killUnit();
      const qmp = await connectWhenReady(qmpSocket, false);
      expect(await qmp.execute('query-status')).toMatchObject({ status: 'running' });
      await qmp.close();
      await until('its memory to be complete', () => listVms()[0]?.status === 'complete');
      await killAndWait(qemuPid!);
    },
  );

  it('a VM gets a scope from systemd, where that is at work (a stand-in for busctl makes the scope)', async () => {
    const bin = path.join(dir, 'bin');
    mkdirSync(bin);
    const busctl = path.join(bin, 'busctl');
    // PIDs au COUNT PID… Before …
    const scope = `${parent}/made.scope`;
    const script = `#!/bin/sh
      mkdir -p ${scope}; echo "$@" >>${bin}/asked
      while [ "$1" != PIDs ]; do shift; done; shift 3
      while [ "$1" != Before ]; do echo $1 >${scope}/cgroup.procs; shift; done`;
    writeFileSync(busctl, script, { mode: 0o755 });
    // The VM is saved there, too: it is restored only where it ran.
    const holding = 'mount -t tmpfs none /run; mkdir -p /run/systemd/system; echo ready; exec sleep 600';
    const holder = spawnTracked(['unshare', '--mount', 'sh', '-c', holding], path.join(dir, 'holder'));
    const isReady = () => readFileSync(path.join(dir, 'holder'), 'utf8').includes('ready');
    await until('the mount namespace', isReady);
    const asSystemd = ['nsenter', `--mount=/proc/${holder.pid}/ns/mnt`, '--'];
    await saveTiny('systemd', asSystemd);
    const { code, json, stderr } = await startCli(
      ['--store', storeDir, '--json', 'restore', 'systemd', '--detach'],
      { wrapper: [...asSystemd, ...inUnit], env: { PATH: `${bin}:${process.env['PATH']}` } },
    ).ended;
    expect([code, stderr]).toEqual([0, '']);
    const { qemuPid } = json as RestoreReport;
    killAtExit(qemuPid!);
    expect(readFileSync(path.join(bin, 'asked'), 'utf8')).toContain('Before as 1 job.service');
    expect(membersOf(unit)).toEqual([]);
    killUnit();
    expect(membersOf(scope)).toContain(qemuPid);
    expect(isAlive(qemuPid!)).toBe(true);
    await killAndWait(qemuPid!);
    await killAndWait(holder.pid);
    await until('the scope to be empty', () => membersOf(scope).length === 0);
    rmdirSync(scope);
  });

  it('the one that reads the stream of a save lives on until the stream ends', async () => {
    const child = spawnTracked(
      [QEMU, ...TINY, '-qmp', `unix:${qmpSocket},server=on,wait=off`],
      path.join(dir, 'log'),
    );
    await (await connectWhenReady(qmpSocket, false)).close();
    const receiver = () =>
      runningPids().find((pid) => isReceiver(pid) && membersOf(path.join(parent, 'vmckpt')).includes(pid));
    const save = start(['save', '--live', 'background-snapshot', `qmp:${qmpSocket}`, 'cut'], {
      env: { VMCKPT_PARK: 'streaming' },
    });
    await untilParked(save, 'streaming');
    const pid = await until('the receiver', receiver);
    process.kill(child.pid, 'SIGSTOP');
    killUnit();
    expect((await save.ended).code).toBe(null);
    expect(isAlive(pid)).toBe(true);
    process.kill(child.pid, 'SIGCONT');
    const qmp = await connectWhenReady(qmpSocket, false);
    const status = async () => ((await qmp.execute('query-status')) as { status: string }).status;
    await until('the VM to run', async () => (await status()) === 'running');
    await qmp.close();
    await killAndWait(child.pid);
    await waitUntilGone(pid);
  });
});

function isReceiver(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('vmckpt-receiver');
  } catch {
    return false;
  }
}

it('asks systemd for a scope that holds the processes', () => {
  const scope = { pids: [7, 8], unit: 'web.service' };
  const first = scopeRequest({ ...scope, isUser: false });
  expect(scopeRequest({ ...scope, isUser: true })[0]).toBe('--user');
  expect(first.slice(0, 6)).toEqual([
    ...['call', 'org.freedesktop.systemd1', '/org/freedesktop/systemd1', 'org.freedesktop.systemd1.Manager'],
    ...['StartTransientUnit', 'ssa(sv)a(sa(sv))'],
  ]);
  expect(first.slice(8, 18)).toEqual(['4', 'PIDs', 'au', '2', '7', '8', 'Before', 'as', '1', 'web.service']);
  const inSession = scopeRequest({ ...scope, unit: 'session-1.scope', isUser: false });
  expect(inSession.slice(8, 14)).toEqual(['3', 'PIDs', 'au', '2', '7', '8']);
});
