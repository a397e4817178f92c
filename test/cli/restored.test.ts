import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { VmJournal } from '../../src/save/vm-journal.js';
import { VmFolder } from '../../src/vms/folder.js';
import type { VmRecord } from '../../src/vms/records.js';
import { identifyProcess } from '../../src/util/process-identity.js';
import { cliSuite, deadProcess } from '../support/cli.js';
import { killAndWait, isAlive, spawnTracked, type TrackedProcess } from '../support/processes.js';
import { connectWhenReady, QEMU, TINY } from '../integration/qemu-helper.js';

describe('restored VMs', () => {
  const { run, directory, runtimeDir } = cliSuite();
  const started: TrackedProcess[] = [];
  beforeAll(() => {
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
  });
  afterEach(async () => {
    for (const { pid } of started.splice(0)) {
      if (isAlive(pid)) process.kill(pid, 'SIGCONT');
      await killAndWait(pid);
    }
  });

  function start(command: readonly string[]): TrackedProcess {
    const child = spawnTracked(command, path.join(directory, 'log'));
    started.push(child);
    return child;
  }

  function folderOf(name: string): VmFolder {
    const folder = new VmFolder(name);
    folder.create();
    return folder;
  }

  /** A paused QEMU whose monitor listens where the folder says. */
  async function startQemu(folder: VmFolder): Promise<TrackedProcess> {
    const qmp = folder.file('qmp.sock');
    const qemu = start([QEMU, ...TINY, '-S', '-qmp', `unix:${qmp},server=on,wait=off`]);
    await (await connectWhenReady(qmp)).close();
    return qemu;
  }

  function record(folder: VmFolder, parts: Partial<VmRecord>): void {
    folder.write({
      name: folder.name,
      generation: 3,
      generationDir: path.join(directory, 'store', folder.name, '3'),
      mode: 'lazy',
      version: 2,
      ramBytes: 64 << 20,
      restoredAt: '2026-01-02T03:04:05.678Z',
      verb: deadProcess(),
      qmpSocket: folder.file('qmp.sock'),
      ...parts,
    });
  }

  /** The state of a QEMU that is slow to answer comes with a later one. */
  const table = async (): Promise<string> => (await run(['ps'])).stdout;

  it('are an empty list where nothing was restored', async () => {
    expect(await run(['ps'])).toMatchObject({ code: 0, stdout: '' });
    expect(await run(['--json', 'ps'])).toMatchObject({ code: 0, json: { vms: [] }, stderr: '' });
    expect(await run(['--json', 'stop', 'web'])).toMatchObject({
      code: 10,
      json: { error: { code: 'NO_SUCH_VM' } },
    });
    expect(await run(['logs', 'web'])).toMatchObject({ code: 10 });
  });

  it('are listed with their processes, and ended through QMP together with their transfer', async () => {
    const folder = folderOf('web');
    const qemu = await startQemu(folder);
    const transfer = start(['sleep', '1000']);
    record(folder, { qemu: identifyProcess(qemu.pid)! });
    folder.writeTransfer({ process: identifyProcess(transfer.pid)!, status: 'serving' });
    await expect
      .poll(table)
      .toMatch(
        new RegExp(
          `^NAME +GEN +STATUS +PID +MEMORY +QMP SOCKET\\nweb +3 +serving, prelaunch +${qemu.pid} +- +/.+qmp.sock\\n$`,
        ),
      );
    expect(await run(['--json', 'stop', 'web'])).toMatchObject({
      code: 0,
      json: { name: 'web', qemuPid: qemu.pid, endedBy: 'quit' },
    });
    expect([isAlive(qemu.pid), isAlive(transfer.pid), existsSync(folder.directory)]).toEqual([
      false,
      false,
      false,
    ]);
  });

  it('are listed at once, with their state, or without that of one that does not answer', async () => {
    const [paused, silent] = [folderOf('paused'), folderOf('silent')];
    for (const folder of [paused, silent]) {
      const qemu = await startQemu(folder);
      record(folder, { qemu: identifyProcess(qemu.pid)! });
      folder.writeTransfer({ process: deadProcess(), status: 'complete' });
      const qmp = await connectWhenReady(folder.file('qmp.sock'));
      await qmp.execute('cont');
      if (folder === paused) await qmp.execute('stop');
      else process.kill(qemu.pid, 'SIGSTOP');
      await qmp.close();
    }
    await expect
      .poll(() => run(['--json', 'ps']))
      .toMatchObject({ code: 0, json: { vms: [{ runState: 'paused' }, { runState: null }] } });
    await expect.poll(table).toMatch(/^paused +3 +complete, paused .*\nsilent +3 +complete {2}/m);
    for (const name of ['paused', 'silent']) await run(['stop', name]);
  });

  it('are killed when QEMU answers neither QMP nor signals', async () => {
    const folder = folderOf('stuck');
    const qemu = await startQemu(folder);
    record(folder, { qemu: identifyProcess(qemu.pid)! });
    folder.writeTransfer({ process: deadProcess(), status: 'complete' });
    process.kill(qemu.pid, 'SIGSTOP');
    expect((await run(['--json', 'stop', 'stuck'])).json).toMatchObject({ endedBy: 'SIGKILL' });
    expect(isAlive(qemu.pid)).toBe(false);
  });

  it('are never confused with a later process of the same number', async () => {
    const bystander = start(['sleep', '1000']);
    const folder = folderOf('reused');
    const stale = { pid: bystander.pid, startTicks: 1 };
    record(folder, { qemu: stale });
    folder.writeTransfer({ process: stale, status: 'serving' });
    expect((await run(['ps'])).stdout).toMatch(/^reused +3 +ended /m);
    expect((await run(['--json', 'stop', 'reused'])).json).toMatchObject({ endedBy: null, qemuPid: null });
    expect(isAlive(bystander.pid)).toBe(true);
    expect(existsSync(folder.directory)).toBe(false);
  });

  it('are left alone while a living verb restores them', async () => {
    const folder = folderOf('young');
    record(folder, { verb: identifyProcess(process.pid)! });
    expect((await run(['ps'])).stdout).toMatch(/^young +3 +starting /m);
    expect(await run(['--json', 'stop', 'young'])).toMatchObject({
      code: 11,
      json: { error: { code: 'VM_BUSY' } },
    });
    folder.remove();
  });

  it('are found and ended when their verb died before it had noted its QEMU', async () => {
    const folder = folderOf('orphan');
    const qemu = await startQemu(folder);
    record(folder, {});
    const error = { code: 'TRANSFER_FAILED', message: 'what a process said of it' };
    folder.writeTransfer({ process: deadProcess(), status: 'failed', error });
    const { stdout, stderr } = await run(['ps']);
    expect(stderr).toMatch(/^orphan: vmckpt restore was killed before the VM ran\./);
    expect(stdout).toMatch(new RegExp(`^orphan +3 +abandoned +${qemu.pid} `, 'm'));
    expect(stderr).toContain('vmckpt stop orphan');
    expect((await run(['--json', 'stop', 'orphan'])).json).toMatchObject({
      qemuPid: qemu.pid,
      endedBy: 'quit',
    });
    expect(isAlive(qemu.pid)).toBe(false);
  });

  it('tell why their transfer has failed, and how to go on', async () => {
    const folder = folderOf('lost');
    const error = { code: 'EXTENT_DAMAGED', message: 'extent 7 of lost/3 is damaged' };
    record(folder, { qemu: identifyProcess(process.pid)! });
    folder.writeTransfer({ process: deadProcess(), status: 'damaged', error });
    const { stdout, stderr } = await run(['ps']);
    expect(stdout).toMatch(/^lost +3 +damaged /m);
    expect(stderr).toContain(error.message);
    expect((await run(['--json', 'ps'])).json).toMatchObject({
      vms: [{ name: 'lost', status: 'damaged', error }],
    });
    folder.remove();
  });

  it('leave no use of their generation when they are ended', async () => {
    const folder = folderOf('user');
    const nameDir = path.join(directory, 'store', 'user');
    mkdirSync(nameDir, { recursive: true });
    writeFileSync(path.join(nameDir, '.use-3-4711-abc'), '4711\n');
    const qemu = await startQemu(folder);
    record(folder, { qemu: identifyProcess(qemu.pid)!, consoleSocket: '/run/console.sock' });
    folder.writeTransfer({ process: deadProcess(), status: 'complete' });
    expect((await run(['ps', '-v'])).stderr).toContain('user: its console is /run/console.sock');
    await run(['stop', 'user']);
    expect(readdirSync(nameDir)).toEqual([]);
  });

  it('are named when their folder was deleted under them', async () => {
    const folder = folderOf('deleted');
    const qmp = folder.file('qmp.sock');
    const monitor = [
      `socket,id=vmckpt-monitor,path=${qmp},server=on,wait=off`,
      'chardev=vmckpt-monitor,mode=control',
    ];
    const qemu = start([QEMU, ...TINY, '-S', '-chardev', monitor[0]!, '-mon', monitor[1]!]);
    await (await connectWhenReady(qmp)).close();
    rmSync(runtimeDir, { recursive: true });
    expect((await run(['ps'])).stderr).toMatch(new RegExp(`^deleted: .*kill ${qemu.pid}$`, 'm'));
    const { code, stderr } = await run(['stop', 'deleted']);
    expect([code, stderr]).toEqual([10, expect.stringContaining(`kill ${qemu.pid}`)]);
  });

  it('are listed with a VM that a killed save has left paused', async () => {
    const qemu = start(['sleep', '1000']);
    const journal = VmJournal.open(identifyProcess(qemu.pid)!);
    journal.write({ wasRunning: true, method: 'stopped', capabilities: {}, parameters: {} });
    journal.close();
    const order = `vmckpt rescue ${qemu.pid} --qmp`;
    expect((await run(['ps'])).stderr).toContain(order);
    const { stdout } = await run(['doctor']);
    expect(stdout).toMatch(
      new RegExp(`process ${qemu.pid} was cut off, and has left the VM paused[^]*${order}`),
    );
    rmSync(journal.directory, { recursive: true });
  });

  it('give out what their processes have said', async () => {
    const folder = folderOf('chatty');
    record(folder, {});
    expect(await run(['logs', 'chatty'])).toMatchObject({ code: 0, stdout: '' });
    const entry = {
      level: 50,
      time: 0,
      pid: 1,
      err: { message: 'no such page' },
      demandFaults: 7,
      msg: 'failed',
    };
    writeFileSync(folder.file('transfer.log'), `${JSON.stringify(entry)}\nplain words\n`);
    writeFileSync(folder.file('qemu.log'), 'qemu: \x1b[2Jwarning\n');
    const { stdout } = await run(['logs', 'chatty']);
    expect(stdout.trim().split('\n')).toEqual([
      'transfer: 1970-01-01T00:00:00.000Z failed (no such page) demandFaults=7',
      'transfer: plain words',
      'qemu: qemu: \\u{1b}[2Jwarning',
    ]);
    expect((await run(['--json', 'logs', 'chatty'])).json).toMatchObject({
      name: 'chatty',
      transfer: [entry, 'plain words'],
      qemu: ['qemu: \x1b[2Jwarning'],
    });
    folder.remove();
  });
});
