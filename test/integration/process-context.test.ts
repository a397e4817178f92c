/** What a VM was as a process belongs to it: its folder, its user, its network. A restore has the same, or is refused. */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { stopVm } from '../../src/vms/stop.js';
import { VmFolder } from '../../src/vms/folder.js';
import { isRoot } from '../support/cli.js';
import { startCli } from '../support/command.js';
import {
  endScriptedVm,
  endScriptedVms,
  restoreTinyVm,
  saveTinyVm,
  startScriptedVm,
  type ScriptedVm,
} from '../support/tiny-vm.js';
import { suiteDirectory } from '../support/vitest.js';

const directory = suiteDirectory();
endScriptedVms();
let count = 0;

function freshFolder(...below: string[]): string {
  const dir = path.join(directory, String(++count), ...below);
  mkdirSync(dir, { recursive: true });
  process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
  return dir;
}

const DISK = '-drive if=none,id=d,readonly=on,format=raw,file=disk';

function openFiles(pid: number): string[] {
  return execFileSync('ls', ['-l', `/proc/${pid}/fd`], { encoding: 'utf8' }).split('\n');
}

function statusOf(pid: number, field: string): string[] {
  const line = new RegExp(`^${field}:(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1]!;
  return line.trim().split(/\s+/);
}

describe('a QEMU in the background', () => {
  /** Its shell says that it is in a folder where another VM has a disk of the same name. */
  const script = `mkdir -p real other; truncate -s 1M real/disk other/disk; cd other; exec env -C "$DIR/real" "$@" ${DISK} -daemonize`;

  it('comes back with its own disk, not with one of that name in the folder that its environment names', async () => {
    const vm = await startScriptedVm({ script, dir: freshFolder() });
    await saveTinyVm(vm, { method: 'stopped', quit: true });
    expect(readManifest(path.join(vm.dir, 'store/web/1')).workingDirectory).toBe(path.join(vm.dir, 'real'));
    await endScriptedVm(vm);
    const { qemuPid } = await restoreTinyVm(vm);
    expect(openFiles(qemuPid!).join()).toContain(path.join(vm.dir, 'real/disk'));
  });

  it('is found by its monitor, too, and tells an absolute path of it', async () => {
    const relative = `cd /; exec env -C "$DIR" "$@" -serial file:serial.log -daemonize`;
    const vm = await startScriptedVm({ script: relative, dir: freshFolder(), qmp: 'web.qmp' });
    await saveTinyVm(vm, { method: 'stopped', quit: true });
    await endScriptedVm(vm);
    const { qemuPid, qmpSocket } = await restoreTinyVm(vm);
    expect(readlinkSync(`/proc/${qemuPid}/cwd`)).toBe(vm.dir);
    expect(qmpSocket).toBe(path.join(vm.dir, 'web.qmp'));
  });
});

describe('a disk that was changed meanwhile', () => {
  it.each([
    ['is smaller', 'qcow2', '1M', 'disk is qcow2 of 1048576 bytes, expected qcow2 of 4194304 bytes'],
    ['is larger', 'qcow2', '8M', 'disk is qcow2 of 8388608 bytes'],
    ['has another format', 'raw', '4M', 'disk is raw of 4194304 bytes, expected qcow2'],
  ])('is refused when it %s', async (_, format, size, said) => {
    const dir = freshFolder();
    const script = 'qemu-img create -q -f qcow2 disk 4M; exec "$@" -drive if=virtio,file=disk';
    const vm = await startScriptedVm({ script, dir });
    await saveTinyVm(vm, { method: 'stopped', quit: true, disksExternal: true });
    await endScriptedVm(vm);
    execFileSync('qemu-img', ['create', '-q', '-f', format, path.join(dir, 'disk'), size]);
    const refusal = { code: 'QEMU_INCOMPATIBLE', message: expect.stringContaining(said) as string };
    // The user errs.
    await expect(restoreTinyVm(vm, { disksAsSaved: true })).rejects.toMatchObject(refusal);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path.join(dir, 'disk'), '4M']);
    const { qemuPid } = await restoreTinyVm(vm, { disksAsSaved: true });
    expect(openFiles(qemuPid!).join()).toContain(path.join(dir, 'disk'));
  });
});

it('a VM with a name of 128 characters comes back, also as a clone of such a name', async () => {
  const name = 'n'.repeat(128);
  const vm = await startScriptedVm({
    script: 'exec "$@" -serial unix:serial.sock,server=on,wait=off',
    dir: freshFolder(),
  });
  await saveTinyVm(vm, { name, method: 'stopped', quit: true });
  await endScriptedVm(vm);
  const clone = await restoreTinyVm(vm, { reference: name, vmName: 'c'.repeat(128), identity: 'clone' });
  const restored = await restoreTinyVm(vm, { reference: name });
  for (const { qemuPid, vmName } of [clone, restored]) {
    expect(new VmFolder(vmName).read()?.qemu?.pid).toBe(qemuPid);
    expect(await stopVm(vmName)).toMatchObject({ endedBy: 'quit' });
    expect(existsSync(new VmFolder(vmName).file('qmp.sock'))).toBe(false);
  }
});

describe.runIf(isRoot)('a VM of another user (needs root)', () => {
  async function startAsOther(script: string): Promise<ScriptedVm> {
    const dir = freshFolder();
    for (const folder of [directory, path.dirname(dir), dir]) chmodSync(folder, 0o755);
    return startScriptedVm({ script, dir });
  }

  it.each([
    [
      'that was started so',
      'exec setpriv --reuid=4242 --regid=4243 --groups=4243,4244 -- "$@"',
      ['4243', '4244'],
    ],
    ['to whom QEMU has changed', 'chmod 777 .; exec "$@" -runas 4242:4243', undefined],
  ])('runs as that user again, %s', async (_title, script, groups) => {
    const vm = await startAsOther(`chown 4242 .; ${script}`);
    await saveTinyVm(vm, { method: 'stopped', quit: true });
    expect(readManifest(path.join(vm.dir, 'store/web/1')).process).toMatchObject({ uid: 4242, gid: 4243 });
    await endScriptedVm(vm);
    const { qemuPid, vmName } = await restoreTinyVm(vm);
    expect(statusOf(qemuPid!, 'Uid')).toEqual(Array(4).fill('4242'));
    expect(statusOf(qemuPid!, 'Gid')).toEqual(Array(4).fill('4243'));
    if (groups !== undefined) expect(statusOf(qemuPid!, 'Groups')).toEqual(groups);
    expect(await stopVm(vmName)).toMatchObject({ endedBy: 'quit' });
  });

  it('is not mapped from a store that the user may not read', async () => {
    const vm = await startAsOther(
      'chown 4242 .; exec setpriv --reuid=4242 --regid=4242 --clear-groups -- "$@"',
    );
    await expect(saveTinyVm(vm, { method: 'stopped', quit: true, layout: 'raw' })).rejects.toMatchObject({
      code: 'MAP_REFUSED',
      exitCode: 14,
    });
  });
});

describe.runIf(isRoot)('a tap interface (needs root)', () => {
  /** Of this test alone: other checkouts may run it, too. */
  const NAME = `vmckpt-${process.pid}`;
  const remove = () => execFileSync('ip', ['link', 'del', NAME]);
  const script = `exec "$@" -netdev tap,id=n,ifname=${NAME},script=no,downscript=no`;
  afterEach(() => {
    if (existsSync(`/sys/class/net/${NAME}`)) remove();
  });

  it('that somebody made, and that is gone, is not made anew', async () => {
    execFileSync('ip', ['tuntap', 'add', 'dev', NAME, 'mode', 'tap']);
    const vm = await startScriptedVm({ script, dir: freshFolder() });
    await saveTinyVm(vm, { method: 'stopped', quit: true });
    await endScriptedVm(vm);
    remove();
    await expect(restoreTinyVm(vm)).rejects.toMatchObject({
      code: 'PLACE_DIFFERS',
      message: expect.stringContaining(NAME) as string,
    });
    expect(existsSync(`/sys/class/net/${NAME}`)).toBe(false);
  });

  it('that QEMU made itself is made anew with a word', async () => {
    const vm = await startScriptedVm({ script, dir: freshFolder() });
    await saveTinyVm(vm, { method: 'stopped', quit: true });
    await endScriptedVm(vm);
    const said: string[] = [];
    await restoreTinyVm(vm, { onMessage: (text) => said.push(text) });
    expect(said).toContainEqual(expect.stringContaining(`The tap interface ${NAME} does not exist`));
  });
});

describe.runIf(isRoot)('a restore in another place (needs root)', () => {
  it('is refused, though the save was where the VM ran', async () => {
    const vm = await startScriptedVm({ script: 'exec "$@"', dir: freshFolder() });
    await saveTinyVm(vm, { method: 'stopped', quit: true });
    await endScriptedVm(vm);
    const env = { VMCKPT_STORE: path.join(vm.dir, 'store') };
    for (const [flag, place] of [
      ['--net', 'network namespace'],
      ['--mount', 'mount namespace'],
    ] as const)
      expect(
        await startCli(['restore', '--trust-command-line', '--mode', 'eager', 'web'], {
          env,
          wrapper: ['unshare', flag, '--'],
        }).ended,
      ).toMatchObject({ code: 14, stderr: expect.stringContaining(place) as string });
  });
});
