/** Inspecting, refusing, starting and comparing real QEMUs. */
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import * as v from 'valibot';
import { afterAll, afterEach, describe, expect, it, onTestFinished } from 'vitest';
import type { VmckptError } from '../../src/errors.js';
import { blockersOfSave } from '../../src/qemu/blockers.js';
import { changedParts } from '../../src/qemu/changed-parts.js';
import { findCollisions, refuseCollisions } from '../../src/qemu/collisions.js';
import { locateMemory } from '../../src/qemu/guest-memory.js';
import { readRamBlocks, requireCompatible } from '../../src/qemu/compatibility.js';
import { inspectVm, VmDescription } from '../../src/qemu/inspect.js';
import {
  findQemuBinary,
  launchQemu,
  readLogTail,
  startDetached,
  type LaunchOptions,
  type StartOptions,
} from '../../src/qemu/launch.js';
import {
  applyMigrationSettings,
  queryMigrate,
  readMigrationSettings,
} from '../../src/qemu/migration-control.js';
import type { QmpClient } from '../../src/qemu/qmp.js';
import { rewriteForRestore } from '../../src/qemu/restore-command-line.js';
import { identifyProcess } from '../../src/util/process-identity.js';
import { until } from '../support/until.js';
import { connectWhenReady, endProcess, QEMU, startQemu, temporaryDirectory, TINY } from './qemu-helper.js';

const { directory, remove } = temporaryDirectory();
const OWN = { isOwnCommandLine: true };
const children: ChildProcess[] = [];
const launchedPids: number[] = [];
let count = 0;

afterEach(async () => {
  for (const child of children.splice(0)) await endProcess(child);
  for (const pid of launchedPids.splice(0))
    if (identifyProcess(pid) !== undefined) process.kill(pid, 'SIGKILL');
});
afterAll(remove);

/** A QEMU whose monitor is connected. */
async function start(...args: string[]): Promise<{ qemu: ChildProcess; qmp: QmpClient }> {
  const socket = path.join(directory, `${++count}.sock`);
  const qemu = startQemu([...args, '-qmp', `unix:${socket},server=on,wait=off`], directory);
  children.push(qemu);
  return { qemu, qmp: await connectWhenReady(socket) };
}

async function launch(
  args: readonly string[],
  more: Partial<LaunchOptions> = {},
): ReturnType<typeof launchQemu> {
  const id = ++count;
  const qmpSocket = path.join(directory, `${id}.qmp`);
  const { args: rewritten } = rewriteForRestore(args, {
    monitorSocket: qmpSocket,
    consoleSocket: path.join(directory, `${id}.console`),
    paused: false,
  });
  const logPath = path.join(directory, `${id}.log`);
  const options = { binary: findQemuBinary(), args: rewritten, cwd: directory, logPath, qmpSocket, ...more };
  const launched = await launchQemu(options);
  launchedPids.push(launched.pid);
  return launched;
}

describe('inspectVm', () => {
  it('describes the machine as QEMU resolved it', async () => {
    writeFileSync(path.join(directory, 'disk.img'), Buffer.alloc(1 << 20));
    const { qemu, qmp } = await start(
      ...[
        '-machine',
        'q35',
        '-cpu',
        'max',
        '-smp',
        '2',
        '-m',
        '64',
        '-accel',
        'tcg',
        '-nodefaults',
        '-display',
        'none',
      ],
      ...[
        '-drive',
        'file=disk.img,format=raw,if=none,id=d,snapshot=on',
        '-device',
        'virtio-blk-pci,drive=d,id=blk',
      ],
      ...['-device', 'virtio-rng-pci', '-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n'],
    );
    const vm = await inspectVm(qmp);
    expect(v.parse(VmDescription, JSON.parse(JSON.stringify(vm)))).toEqual(vm);
    expect(vm).toMatchObject({
      pid: qemu.pid,
      startTicks: identifyProcess(qemu.pid!)!.startTicks,
      binary: QEMU,
      cwd: directory,
      status: 'running',
      running: true,
      machineType: expect.stringMatching(/^pc-q35-\d+\.\d+$/) as string,
      accelerator: 'tcg',
      cpu: { model: 'max', count: 2 },
      ramBytes: 64 << 20,
      memoryBackends: [{ id: 'pc.ram', type: 'memory-backend-ram', share: false }],
      memoryDevices: [],
      devices: {
        named: [{ id: 'blk', type: 'virtio-blk-pci' }],
        anonymous: ['virtio-rng-pci', 'virtio-net-pci'],
      },
      disks: [{ device: 'd', backingFile: 'disk.img', temporary: true, readOnly: false, sizeBytes: 1 << 20 }],
      netdevs: ['n'],
    });
    expect(vm.args.slice(0, 2)).toEqual(['-machine', 'q35']);
    expect(vm.cpu.features['1.0.EDX']).toBeGreaterThan(0);
    expect(await blockersOfSave(qmp, vm)).toEqual([]);
    expect(changedParts(vm)).toEqual([]);
  });

  it('names what was plugged in, removed or changed after the start', async () => {
    const { qmp } = await start(
      ...[
        ...TINY,
        '-device',
        'pcie-root-port,id=rp1,chassis=1',
        '-device',
        'pcie-root-port,id=other,chassis=2',
      ],
      ...['-drive', 'if=none,id=cd,media=cdrom', '-device', 'ide-cd,drive=cd,id=cdrom'],
    );
    await qmp.execute('device_add', { driver: 'virtio-rng-pci', id: 'late', bus: 'rp1' });
    await qmp.execute('netdev_add', { type: 'user', id: 'net9' });
    writeFileSync(path.join(directory, 'x.iso'), Buffer.alloc(4096));
    await qmp.execute('blockdev-change-medium', {
      id: 'cdrom',
      filename: path.join(directory, 'x.iso'),
      format: 'raw',
    });
    const vm = await inspectVm(qmp);
    const messages = changedParts(vm).join('\n');
    expect(messages).toMatch(/"late" \(virtio-rng-pci\) was plugged in/);
    expect(messages).toMatch(/"net9" was added/);
    expect(messages).toMatch(/"cd" has the image .*x\.iso/);
    const withGone = { ...vm, devices: { named: [], anonymous: ['edu'], plugged: [] } };
    const gone = changedParts(withGone).join('\n');
    expect(gone).toMatch(/"other" \(pcie-root-port\) was removed/);
    expect(gone).toMatch(/1 devices without an id \(edu\), the command line has 0/);
  });

  it('is found in QEMU’s memory, all backends of it', async () => {
    const { qmp } = await start(
      ...[
        '-machine',
        'q35',
        '-accel',
        'tcg',
        '-nodefaults',
        '-display',
        'none',
        '-m',
        '64M,slots=1,maxmem=1G',
      ],
      ...['-object', 'memory-backend-ram,id=a,size=32M', '-numa', 'node,memdev=a'],
      ...['-object', 'memory-backend-memfd,id=b,size=32M', '-numa', 'node,memdev=b'],
      ...['-object', 'memory-backend-ram,id=c,size=128M,share=on', '-device', 'pc-dimm,memdev=c'],
    );
    const blocks = (await readRamBlocks(qmp)).filter(({ usedBytes }) => usedBytes >= 32 << 20);
    const located = await locateMemory(qmp, blocks, ['a', 'b', 'c']);
    expect(located.map(({ blockName }) => blockName.replace('/objects/', ''))).toEqual(['a', 'b', 'c']);
    const addresses = located.map(({ hostAddress }) => hostAddress);
    expect(new Set(addresses).size).toBe(3);
    for (const [index, { isFresh }] of located.entries()) {
      expect(isFresh).toBe(true);
      expect(addresses[index]! % 4096).toBe(0);
    }
    expect(await locateMemory(qmp, blocks, [])).toEqual([located[0]]);
  });

  it('names the parts whose state QEMU cannot give away', async () => {
    const { qmp } = await start(...TINY);
    const vm = await inspectVm(qmp);
    const parts = {
      ...vm,
      args: [
        ...vm.args,
        '-netdev',
        'vhost-user,id=n,chardev=c',
        '-device',
        'vfio-pci,id=gpu',
        '-device',
        'vhost-user-fs-pci',
      ],
      memoryDevices: [{ id: 'nv0', kind: 'nvdimm' }],
      devices: { named: [{ id: 'gpu', type: 'vfio-pci' }], anonymous: ['vhost-user-fs-pci'], plugged: [] },
    };
    const messages = (await blockersOfSave(qmp, parts)).map(({ message }) => message).join('\n');
    for (const named of [
      /"nv0" is of the kind nvdimm/,
      /vfio-pci "gpu"/,
      /vhost-user-fs-pci/,
      /-netdev vhost-user,id=n/,
    ])
      expect(messages).toMatch(named);
  });

  it('names a machine whose streams do not tell where a section ends', async () => {
    const old = ['-machine', 'pc-i440fx-2.3', ...TINY.slice(2)];
    const { qmp } = await start(...old);
    const vm = await inspectVm(qmp);
    expect(await blockersOfSave(qmp, vm)).toMatchObject([
      { code: 'MIGRATION_BLOCKED', message: expect.stringContaining('pc-i440fx-2.3') as string },
    ]);
    const next = { ...vm, machineType: 'pc-i440fx-2.4' };
    expect(await blockersOfSave(qmp, next)).toEqual([]);
    const args = [...vm.args, '-global', 'migration.send-section-footer=off'];
    expect(await blockersOfSave(qmp, { ...next, args })).toMatchObject([
      { message: expect.stringContaining('-global migration.send-section-footer=off') as string },
    ]);
  });

  it('finds the folder in which a QEMU in the background was started', async () => {
    const socket = path.join(directory, 'daemon.sock');
    const args = [
      ...TINY,
      '-daemonize',
      '-pidfile',
      'daemon.pid',
      '-qmp',
      `unix:${socket},server=on,wait=off`,
    ];
    const parent = spawn(QEMU, args, {
      stdio: 'ignore',
      cwd: directory,
      env: { ...process.env, PWD: directory },
    });
    const qmp = await connectWhenReady(socket);
    const vm = await inspectVm(qmp);
    launchedPids.push(vm.pid);
    expect(vm.cwd).toBe(directory);
    expect(vm.pid).not.toBe(parent.pid);
  });

  it('borrows the migration settings, whatever was left on, and refuses a migration under way', async () => {
    const { qmp } = await start(...TINY);
    const vm = await inspectVm(qmp);
    const before = await readMigrationSettings(qmp);
    const saved = await applyMigrationSettings(qmp, {
      capabilities: { 'background-snapshot': true },
      parameters: { 'max-bandwidth': 12345678 },
    });
    expect(await blockersOfSave(qmp, vm)).toEqual([]);
    await applyMigrationSettings(qmp, saved);
    expect(await readMigrationSettings(qmp)).toEqual(before);
    const sink = path.join(directory, 'sink.sock');
    const server = net.createServer(() => undefined);
    await new Promise<void>((resolve) => server.listen(sink, resolve));
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 1 });
    await qmp.execute('migrate', { uri: `unix:${sink}` });
    await until('the migration', async () => (await queryMigrate(qmp)).status === 'active');
    expect(await blockersOfSave(qmp, vm)).toMatchObject([{ code: 'VM_BUSY' }]);
    await qmp.execute('migrate_cancel');
    server.close();
  });
});

describe('launchQemu', () => {
  it('starts a QEMU that waits for its state, in a session of its own', async () => {
    const { pid, qmp, qemuReadyMs, spawnedAtMs, exited } = await launch(TINY);
    expect(qmp.oob).toBe(true);
    expect(qmp.peerPid()).toBe(pid);
    expect(qemuReadyMs).toBeGreaterThan(0);
    expect(Math.abs(spawnedAtMs - Date.now())).toBeLessThan(60_000);
    const session = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ')[3];
    expect(Number(session)).toBe(pid);
    await qmp.execute('quit');
    expect(await exited).toEqual({ exitCode: 0, killedBy: null });
  });

  it.each([
    ['no terminal', 'ignore'],
    ['a pipe', 'pipe'],
    ['a terminal', 'pty'],
  ])('gives a VM that was started with -nographic on %s its console on a socket', async (_what, stdin) => {
    const socket = path.join(directory, `${++count}.sock`);
    const args = ['-machine', 'q35', '-m', '64', '-accel', 'tcg', '-nographic', '-net', 'none'];
    const whole = [QEMU, ...args, '-qmp', `unix:${socket},server=on,wait=off`];
    const inTerminal = ['script', '-qec', whole.join(' '), '/dev/null'];
    const [program = '', ...words] = stdin === 'pty' ? inTerminal : whole;
    const original = spawn(program, words, {
      stdio: [stdin === 'ignore' ? 'ignore' : 'pipe', 'ignore', 'ignore'],
    });
    children.push(original);
    const qmp = await connectWhenReady(socket);
    const vm = await inspectVm(qmp);
    launchedPids.push(vm.pid);
    const blocks = await readRamBlocks(qmp);
    process.kill(vm.pid, 'SIGKILL');
    await qmp.closed;
    const consoleSocket = path.join(directory, `${count}.console`);
    const monitorSocket = path.join(directory, `${count}.monitor`);
    const rewritten = rewriteForRestore(vm.args, {
      monitorSocket,
      consoleSocket,
      paused: true,
      machineType: vm.machineType,
    });
    expect(rewritten).toMatchObject({ consoleSocket, userQmpSocket: socket });
    const logPath = path.join(directory, `${count}.log`);
    const options = {
      binary: findQemuBinary(),
      args: rewritten.args,
      cwd: vm.cwd,
      logPath,
      qmpSocket: monitorSocket,
    };
    const restored = await launchQemu(options);
    launchedPids.push(restored.pid);
    expect(await readRamBlocks(restored.qmp)).toEqual(blocks);
    const again = await inspectVm(restored.qmp);
    expect(again.devices).toEqual(vm.devices);
    expect(again.chardevs.some(({ id, target }) => id === 'serial0' && target.includes(consoleSocket))).toBe(
      true,
    );
    const client = net.connect(consoleSocket);
    await new Promise((resolve, reject) => client.once('connect', resolve).once('error', reject));
    client.destroy();
  });

  it('passes on what QEMU said last, and what it means', async () => {
    await expect(launch(['-machine', 'pc-q35-99.9', '-display', 'none'])).rejects.toMatchObject({
      code: 'QEMU_INCOMPATIBLE',
      message: expect.stringMatching(/exit code 1.*unsupported machine type/s) as string,
      hint: expect.stringMatching(/does not know the machine type/) as string,
    });
    const port = await listen();
    const forward = `user,id=n,hostfwd=tcp:127.0.0.1:${port.number}-:1`;
    await expect(launch([...TINY, '-netdev', forward])).rejects.toMatchObject({
      hint: expect.stringContaining('hostfwd') as string,
    });
    port.close();
  });

  it('says that the folder or the program is missing', async () => {
    await expect(launch(TINY, { cwd: path.join(directory, 'gone') })).rejects.toMatchObject({
      code: 'QEMU_FAILED_TO_START',
      message: expect.stringContaining('does not exist') as string,
    });
    await expect(launch(TINY, { binary: path.join(directory, 'gone') })).rejects.toMatchObject({
      code: 'QEMU_FAILED_TO_START',
    });
  });

  it('leaves no QEMU behind when it is aborted or the monitor never comes', async () => {
    const reason = new Error('enough');
    const abort = new AbortController();
    const launching = launch(TINY, { qmpSocket: path.join(directory, 'never.sock'), signal: abort.signal });
    setTimeout(() => abort.abort(reason), 100);
    await expect(launching).rejects.toThrow('enough');
    const start = async (options: StartOptions) => {
      const started = await startDetached(options);
      await until('its words', () => readLogTail(options.logPath).includes("'never'"));
      return started;
    };
    const qmpSocket = path.join(directory, 'never.sock');
    await expect(
      launch([...TINY, '-trace', 'never'], { qmpSocket, start, timeoutMs: 300 }),
    ).rejects.toMatchObject({
      code: 'TIMEOUT',
      message: expect.stringMatching(/300 ms, and said: .*trace event 'never'/) as string,
    });
  });

  it('shows the end of a long log in whole lines', () => {
    const log = path.join(directory, 'long.log');
    writeFileSync(log, `${'x'.repeat(100)}\n`.repeat(100));
    const lines = readLogTail(log).split('\n');
    expect(new Set(lines)).toEqual(new Set(['x'.repeat(100)]));
    expect(readLogTail(path.join(directory, 'no.log'))).toBe('');
  });
});

describe('findQemuBinary', () => {
  it("runs the host's own emulator, never what a checkpoint names", () => {
    const own = findQemuBinary();
    expect(own).toMatch(/^\/.*qemu-system-x86_64$/);
    expect(findQemuBinary({ recorded: '/tmp/evil/qemu-system-x86_64' })).toBe(own);
    expect(findQemuBinary({ recorded: '/bin/sh' })).toBe(own);
    expect(findQemuBinary({ recorded: 'qemu-system-nowhere' })).toBe(own);
  });

  it('takes the choice of the user by name or path', () => {
    expect(findQemuBinary({ chosen: findQemuBinary() })).toBe(findQemuBinary());
  });

  it('says what is wrong with the choice', () => {
    const { directory, remove } = temporaryDirectory();
    onTestFinished(remove);
    const file = path.join(directory, 'qemu');
    writeFileSync(file, '', { mode: 0o600 });
    const wrong: [string, string][] = [
      ['qemu-system-nowhere', 'no qemu-system-nowhere on PATH'],
      [directory, `${directory} is a folder, expected a QEMU binary`],
      [file, `${file} is not an executable file`],
      [`${file}/gone`, `${file}/gone does not exist`],
    ];
    for (const [chosen, message] of wrong)
      expect(() => findQemuBinary({ chosen })).toThrow(
        expect.objectContaining({ code: 'QEMU_NOT_FOUND', message }),
      );
  });
});

describe('findCollisions', () => {
  it('finds nothing where nothing is', async () => {
    const args = [
      '-qmp',
      `unix:${directory}/free.sock,server`,
      '-pidfile',
      `${directory}/free.pid`,
      '-vnc',
      'none',
    ];
    expect(await findCollisions(args, {})).toEqual([]);
  });

  it('is not in its own way: one port on all addresses and on one of them may be free for both', async () => {
    const { number, close } = await listen();
    close();
    const forwards = `user,id=n,hostfwd=tcp::${number}-:22,hostfwd=tcp:[::1]:${number}-:23`;
    expect(await findCollisions(['-netdev', forwards], {})).toEqual([]);
  });

  it('finds the original, its ports, its sockets, its pid file and its vsock id', async () => {
    const port = await listen();
    const { qemu, qmp } = await start(...TINY, '-pidfile', `${directory}/taken.pid`);
    const sleeper = spawn(
      process.execPath,
      ['-e', 'setTimeout(String, 60_000)', '--', '-device', 'vhost-vsock-pci,guest-cid=4711'],
      {
        stdio: 'ignore',
      },
    );
    children.push(sleeper);
    writeFileSync(path.join(directory, 'plain'), '');
    const args = [
      ...['-netdev', `user,id=n,hostfwd=tcp:127.0.0.1:${port.number}-:22`, '-serial', 'unix:plain,server'],
      ...[
        '-qmp',
        `unix:${qmp.path},server`,
        '-pidfile',
        'taken.pid',
        '-device',
        'vhost-vsock-pci,guest-cid=4711',
      ],
    ];
    const original = identifyProcess(qemu.pid!)!;
    const found = await findCollisions(args, { original, cwd: directory });
    expect(found.map(({ what }) => what)).toEqual([
      'original',
      'port',
      'socket',
      'socket',
      'pidfile',
      'vsock',
    ]);
    await expect(refuseCollisions(args, { original, cwd: directory })).rejects.toMatchObject({
      code: 'COLLISION',
      message: expect.stringContaining(`still runs, as process ${qemu.pid}`) as string,
    });
    port.close();
  });
});

describe('requireCompatible', () => {
  it('accepts the same machine and names every difference of another one', async () => {
    const { qmp } = await start(...TINY);
    const vm = await inspectVm(qmp);
    const saved = {
      machine: { type: vm.machineType, cpuModel: vm.cpu.model, cpuFeatures: vm.cpu.features },
      qemu: { version: vm.version.text },
      ram: { blocks: await readRamBlocks(qmp) },
    };
    expect(saved.ram.blocks.map(({ name }) => name)).toContain('pc.ram');
    await requireCompatible(qmp, saved, OWN);
    const other = await start(
      '-machine',
      'pc',
      '-cpu',
      'Nehalem',
      '-m',
      '32',
      '-accel',
      'tcg',
      '-nodefaults',
      '-display',
      'none',
    );
    await expect(
      requireCompatible(other.qmp, { ...saved, qemu: { version: '99.0.0' } }, OWN),
    ).rejects.toMatchObject({
      code: 'QEMU_INCOMPATIBLE',
      message: expect.stringMatching(
        /older than the saver's 99.*pc-q35-\S+, found pc-i440fx.*qemu64, found Nehalem.*"pc.ram" of 67108864 bytes, found 33554432/s,
      ) as string,
    });
    const features = { ...vm.cpu.features, '7.0.EBX': 0xffff_ffff };
    await expect(
      requireCompatible(qmp, { ...saved, machine: { ...saved.machine, cpuFeatures: features } }, OWN),
    ).rejects.toThrow(/CPUID 7\.0\.EBX=0x/);
  });

  it.each(['max', 'qemu64'])('says what helps where the features of -cpu %s are missing', async (model) => {
    const { qmp } = await start(...TINY, '-cpu', model);
    const { machineType: type, version } = await inspectVm(qmp);
    const machine = { type, cpuModel: model, cpuFeatures: { '7.0.EBX': 0xffff_ffff } };
    const hintFor = async (saver: string) => {
      const saved = { machine, qemu: { version: saver }, ram: { blocks: [] } };
      const refusal: unknown = await requireCompatible(qmp, saved, OWN).catch((error: unknown) => error);
      return (refusal as VmckptError).hint;
    };
    expect(await hintFor('2.0.1')).toContain('with the QEMU that saved it, 2.0.1 (--qemu');
    expect(await hintFor(version.text)).toContain('on a host whose CPU has these features');
    for (const saver of ['2.0.1', version.text])
      expect((await hintFor(saver))!.includes('named CPU model')).toBe(model === 'max');
  });

  it('names vCPUs and devices that QEMU would take without a word', async () => {
    const { qmp } = await start(...TINY, '-vga', 'std');
    const vm = await inspectVm(qmp);
    const { machineType: type, deviceTypes, cpu } = vm;
    const machine = { type, cpuModel: cpu.model, cpuCount: cpu.count, deviceTypes };
    const qemu = { version: vm.version.text };
    const saved = { machine, qemu, ram: { blocks: await readRamBlocks(qmp) } };
    const same = await start(...TINY, '-device', 'VGA');
    await requireCompatible(same.qmp, saved, OWN);
    const other = await start(...TINY, '-device', 'VGA', '-smp', '2', '-device', 'virtio-rng-pci');
    await expect(requireCompatible(other.qmp, saved, OWN)).rejects.toThrow(
      /expected 1 vCPUs, found 2; 1 more of the device virtio-rng-pci than expected/,
    );
  });
});

async function listen(): Promise<{ number: number; close: () => void }> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { number: (server.address() as net.AddressInfo).port, close: () => void server.close() };
}
