/** What vmckpt saved for a user restores without a word of trust, and nothing else does; on tiny real QEMUs. */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { encodeManifest, readManifest } from '../../src/checkpoint/manifest.js';
import { freePort } from '../../src/bench/workloads.js';
import { qemuBinary, qemuProblem } from '../support/cache.js';
import { cliSuite, isRoot } from '../support/cli.js';
import type { CliResult } from '../support/command.js';
import { killAndWait, killAtExit, killProcessesOf } from '../support/processes.js';
import { connectWhenReady, QEMU, TINY } from './qemu-helper.js';

const { directory, storeDir, runtimeDir, run } = cliSuite();
/** The VM's, and its user's home. */
const folder = path.join(directory, 'home');
const env = { XDG_STATE_HOME: path.join(directory, 'state') };
let count = 0;

mkdirSync(folder);
afterAll(() => killProcessesOf(runtimeDir));

interface Vm {
  readonly name: string;
  readonly pid: number;
}

/** A QEMU that was started in the folder, as README shows it. */
async function start(args: readonly string[], wrapper: readonly string[] = [], program = QEMU): Promise<Vm> {
  const name = `vm${++count}`;
  const argv = [...wrapper, program, ...TINY, '-qmp', `unix:${name}.qmp,server=on,wait=off`, ...args];
  const pid = spawn(argv[0]!, argv.slice(1), { stdio: 'ignore', cwd: folder }).pid!;
  killAtExit(pid);
  await (await connectWhenReady(path.join(folder, `${name}.qmp`))).close();
  return { name, pid };
}

function save({ name }: Vm, ...options: string[]): Promise<CliResult> {
  return run(['save', ...options, `qmp:${path.join(folder, `${name}.qmp`)}`, name], { env });
}

/** Saves the VM and ends it. */
async function saved(args: readonly string[], ...options: string[]): Promise<Vm> {
  const vm = await start(args);
  const { code, stderr } = await save(vm, '--quit', ...options);
  expect([code, stderr]).toEqual([0, '']);
  return vm;
}

/** And stops what has come of it when the test ends. */
async function restore(...args: string[]): Promise<CliResult> {
  const result = await run(['--json', 'restore', '--detach', ...args], { env });
  const { vmName, clones = [{ vmName }] } = result.json as {
    readonly vmName?: string;
    readonly clones?: readonly { readonly vmName?: string }[];
  };
  onTestFinished(async () => {
    for (const { vmName: started } of clones) if (started !== undefined) await run(['stop', started]);
  });
  return result;
}

describe('what vmckpt saved for this user needs no flag to be restored', () => {
  it.each([
    ['a QMP socket in its folder', []],
    ["sockets in the user's home", ['-serial', `unix:${folder}/serial.sock,server=on,wait=off`]],
    ['-serial file:', ['-serial', 'file:serial.log']],
    ['-vnc on every address', ['-vnc', ':77']],
    ['a file that QEMU writes', ['-D', 'qemu-debug.log']],
  ])('%s', async (_what, args) => {
    const { name } = await saved(args);
    expect(await restore(name)).toMatchObject({
      code: 0,
      json: { mode: 'prefetch', qmpSocket: path.join(folder, `${name}.qmp`) },
    });
  });

  it('QMP over TCP on loopback', async () => {
    const { name } = await saved(['-qmp', `tcp:127.0.0.1:${await freePort()},server=on,wait=off`]);
    expect((await restore(name)).code).toBe(0);
  });

  it('a writable disk that the user keeps', async () => {
    writeFileSync(path.join(folder, 'disk.img'), Buffer.alloc(1 << 20));
    const disk = ['-drive', 'file=disk.img,format=raw,if=none,id=d', '-device', 'virtio-blk-pci,drive=d'];
    const { name } = await saved(disk, '--disks', 'external');
    expect((await restore(name)).code).toBe(0);
    // Beside it a clone is refused for the disk; QEMU would run it without one.
    expect(await restore('--as', `${name}-clone`, name)).toMatchObject({
      json: { error: { code: 'COLLISION' } },
    });
    await run(['stop', name]);
    expect((await restore('--as', `${name}-clone`, name)).code).toBe(0);
  });

  it('clones, with --as and --count, beside the VM', async () => {
    const vm = await start(['-serial', 'file:serial.log']);
    expect((await save(vm)).code).toBe(0);
    expect((await restore('--as', `${vm.name}-clone`, vm.name)).code).toBe(0);
    expect(await restore('--count', '2', vm.name)).toMatchObject({
      code: 0,
      json: { clones: [{ vmName: `${vm.name}.1` }, { vmName: `${vm.name}.2` }] },
    });
    await killAndWait(vm.pid);
  });

  it('a clone has a socket of its own, where the last of two names is the one that QEMU takes', async () => {
    const vm = await start(['-serial', `unix:${folder}/first,server=on,wait=off,path=${folder}/second`]);
    const inode = () => statSync(`${folder}/second`).ino;
    const before = inode();
    expect((await save(vm)).code).toBe(0);
    const clone = await restore('--as', `${vm.name}-clone`, vm.name);
    expect(clone).toMatchObject({ code: 0 });
    const { moved } = clone.json as { readonly moved: readonly { readonly from: string }[] };
    expect(moved.map(({ from }) => from)).toContain(`${folder}/second`);
    expect(inode()).toBe(before);
    await killAndWait(vm.pid);
  });

  it('--mode map, and learn', async () => {
    const { name } = await saved(['-serial', 'file:serial.log'], '--layout', 'raw');
    expect((await restore('--mode', 'map', name)).code).toBe(0);
    await run(['stop', name]);
    const learned = await run(['--json', 'learn', '--runs', '1', '--seconds', '1', name], { env });
    expect(learned.code, learned.stderr).toBe(0);
  });

  it.skipIf(qemuProblem('10') !== undefined)(
    'a QEMU that is not the one on PATH: it is started again',
    async () => {
      const vm = await start([], [], qemuBinary('10'));
      expect((await save(vm, '--quit')).code).toBe(0);
      const { code, json } = await restore(vm.name);
      expect(code).toBe(0);
      const { qemuPid } = json as { readonly qemuPid: number };
      expect(readlinkSync(`/proc/${qemuPid}/exe`)).toBe(realpathSync(qemuBinary('10')));
      expect((await run(['stop', vm.name])).code).toBe(0);
      // Nobody else's word is taken for it, and the one on PATH is too old.
      rmSync(path.join(storeDir, vm.name, '1', 'seal'));
      expect((await restore('--as', `${vm.name}-clone`, vm.name)).code).toBe(14);
    },
  );

  it('two first saves at once make one key', async () => {
    const own = { XDG_STATE_HOME: path.join(directory, 'first') };
    const vms = await Promise.all([start([]), start([]), start([])]);
    const results = await Promise.all(
      vms.map(({ name }) => run(['save', `qmp:${folder}/${name}.qmp`, name], { env: own })),
    );
    expect(results.map(({ code, stderr }) => [code, stderr])).toEqual(vms.map(() => [0, '']));
    for (const { name, pid } of vms) {
      expect((await run(['--json', 'show', name], { env: own })).json).toMatchObject({
        seal: { status: 'own' },
      });
      await killAndWait(pid);
    }
  });
});

const WRITES_A_FILE = ['-D', 'qemu-debug.log'];

describe('what this user is not known to have saved is refused', () => {
  const refused = (reason: RegExp) => ({
    code: 12,
    json: {
      error: {
        code: 'COMMAND_LINE_UNTRUSTED',
        message: expect.stringMatching(reason) as string,
        hint: expect.stringContaining('--trust-command-line') as string,
      },
    },
  });

  it('edited: with exit code 13 when the checksum tells, and 12 when it was made to fit', async () => {
    const { name } = await saved(WRITES_A_FILE);
    const file = path.join(storeDir, name, '1/manifest.json');
    const whole = readFileSync(file, 'utf8');
    writeFileSync(file, whole.replace('"tcg"', '"tch"'));
    expect(await restore(name)).toMatchObject({ code: 13, json: { error: { code: 'MANIFEST_DAMAGED' } } });
    writeFileSync(file, whole);
    const manifest = readManifest(path.dirname(file));
    const edited = { ...manifest, commandLine: [...manifest.commandLine, '-name', 'other'] };
    writeFileSync(file, encodeManifest(edited));
    expect(await restore(name)).toMatchObject(refused(/manifest was changed after it was sealed/));
    expect(await restore('--as', 'clone', '--trust-command-line', name)).toMatchObject({ code: 0 });
  });

  it("in another user's store, or after the key was removed, where what it runs is not harmless", async () => {
    const { name } = await saved(['-vnc', ':77']);
    const harmless = await saved([]);
    const theirs = {
      VMCKPT_STORE: path.join(directory, 'theirs'),
      XDG_STATE_HOME: path.join(directory, 'other'),
    };
    cpSync(storeDir, theirs.VMCKPT_STORE, { recursive: true });
    const restoreThere = (...args: string[]) => run(['--json', 'restore', ...args], { env: theirs });
    expect(await restoreThere(name)).toMatchObject(refused(/has no key to verify its seal/));
    expect(await restoreThere(harmless.name)).toMatchObject({ code: 0 });
    await run(['stop', harmless.name]);
    expect(await restoreThere('--as', 'clone', name)).toMatchObject(refused(/opens the guest's display/));
    expect(await restoreThere('--as', 'clone', harmless.name)).toMatchObject({ code: 0 });
    await run(['stop', 'clone']);

    const vm = await start([]);
    await run(['save', `qmp:${folder}/${vm.name}.qmp`, 'own'], { env: theirs });
    expect(await restoreThere(name)).toMatchObject(refused(/sealed with another key/));
    await killAndWait(vm.pid);
  });

  it('saved where no key can be made: the save says so', async () => {
    const vm = await start(WRITES_A_FILE);
    const unwritable = { XDG_STATE_HOME: '/proc/none' };
    const done = await run(['save', '--quit', `qmp:${folder}/${vm.name}.qmp`, vm.name], { env: unwritable });
    expect(done.code).toBe(0);
    expect(done.stderr).toContain(
      `${vm.name}@1 cannot be sealed: /proc/none/vmckpt/seal-key cannot be used: ENOENT`,
    );
    expect(done.stderr).toContain('Its restore will need --trust-command-line.');
    expect(await restore(vm.name)).toMatchObject(refused(/it has no seal/));
    expect((await restore('--trust-command-line', vm.name)).code).toBe(0);
  });

  it.skipIf(!isRoot)("root's save of another user's VM, who can change what /proc shows", async () => {
    // That user may come here, and a restore would run as that user.
    chmodSync(directory, 0o711);
    chownSync(folder, 1234, 1234);
    onTestFinished(() => chownSync(folder, 0, 0));
    const vm = await start(
      ['-D', 'their.log'],
      ['setpriv', '--reuid=1234', '--regid=1234', '--clear-groups'],
    );
    const done = await save(vm, '--quit');
    expect(done.code).toBe(0);
    expect(done.stderr).toContain('QEMU runs as another user');
    expect(done.stdout).toContain(', not sealed.');
    expect((await run(['list'])).stdout).toMatch(new RegExp(`^${vm.name} .*, not sealed by this user$`, 'm'));
    expect((await run(['show', vm.name])).stdout).toMatch(
      /^Seal +it has no seal: QEMU ran as the user 1234$/m,
    );
    expect(await restore(vm.name)).toMatchObject(refused(/it has no seal: QEMU ran as the user 1234/));
  });

  it('with an option that QEMU reads in another way than it looks', async () => {
    const { name } = await saved([]);
    const dir = path.join(storeDir, name, '1');
    const manifest = readManifest(dir);
    const restoreWith = (...args: string[]) => {
      const commandLine = [...manifest.commandLine.filter((word) => !/^-qmp$|^unix:/.test(word)), ...args];
      writeFileSync(path.join(dir, 'manifest.json'), encodeManifest({ ...manifest, commandLine }));
      return restore(name);
    };
    const victim = path.join(folder, 'victim');
    writeFileSync(victim, 'kept');
    writeFileSync(path.join(folder, 'off'), `#!/bin/sh\ntouch ${folder}/ran\n`, { mode: 0o755 });
    for (const args of [
      ['-netdev', 'tap,id=t,ifname=vmckpt%d,script=no,downscript=no,noscript'],
      ['-serial', `unix:/tmp/vmckpt-none,server=on,wait=off,path=${victim}`],
      ['-snapshot', '-drive', `file=${victim},format=raw,if=none,id=d,snapshot=off`],
      ['-chardev', `pty,id=p,path=${folder}/link`],
      ['-cdrom', 'nbd://127.0.0.1/x'],
      ['-device', `usb-tablet,pcap=${victim}`],
    ])
      expect(await restoreWith(...args)).toMatchObject(refused(/is not harmless: -/));
    expect(readFileSync(victim, 'utf8')).toBe('kept');
    expect(existsSync(path.join(folder, 'ran'))).toBe(false);
    // And without them it is what it was.
    expect((await restoreWith()).code).toBe(0);
  });

  it('imported', async () => {
    const { name } = await saved([]);
    const stream = path.join(directory, 'stream');
    expect((await run(['export', name, stream])).code).toBe(0);
    const line = [...TINY, '-serial', 'file:serial.log'];
    expect((await run(['import', stream, 'imported', '--', ...line])).code).toBe(0);
    expect(await restore('imported')).toMatchObject(refused(/it was imported/));
    rmSync(stream);
  });
});
