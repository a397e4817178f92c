/**
 * Every save rehearses its restore: what a restore would refuse, the save knew. Each requirement of a launch has a case
 * here, with a real QEMU that does not meet it.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { REQUIREMENTS } from '../../src/launch/requirements.js';
import { identifyProcess } from '../../src/util/process-identity.js';
import { bareGuestFile } from '../support/cache.js';
import { cliSuite, isRoot } from '../support/cli.js';
import {
  endScriptedVm,
  endScriptedVms,
  restoreTinyVm,
  saveTinyVm,
  startScriptedVm,
  type ScriptedVm,
} from '../support/tiny-vm.js';
import { connectWhenReady, TINY } from './qemu-helper.js';

interface Case {
  readonly title: string;
  readonly requirement: keyof typeof REQUIREMENTS;
  /** Of bash; "$@" is QEMU with what every case has, $DIR the case's folder. */
  readonly script: string;
  /** Once QEMU runs. */
  readonly afterwards?: (dir: string) => void;
  /** Said to its monitor. */
  readonly monitor?: readonly (readonly [string, Record<string, unknown>])[];
  /** Of the saves and the restore. */
  readonly env?: (dir: string) => Record<string, string>;
  readonly needsRoot?: boolean;
  readonly code: string;
  readonly exitCode: number;
  /** What the message names. */
  readonly named: string;
}

/** Devices that have the name of others. */
const REPLACED = [
  {
    title: 'a device of another kind in the place of one',
    driver: 'usb-kbd,id=part',
    again: { driver: 'usb-mouse', id: 'part' },
    named: 'the device "part" (usb-mouse) was plugged in after the start, in the place of',
  },
  {
    title: 'a device that is in another place now',
    driver: 'usb-kbd,id=part',
    again: { driver: 'usb-kbd', id: 'part', port: '4' },
    named: 'the device "part" (usb-kbd) was plugged in',
  },
  {
    title: 'a device that has another disk now',
    driver: 'usb-storage,id=part,drive=one',
    again: { driver: 'usb-storage', id: 'part', drive: 'two' },
    named: 'the device "part" (usb-storage) was plugged in',
  },
  {
    title: 'a device without an id in the place of one',
    driver: 'usb-kbd',
    again: { driver: 'usb-mouse' },
    named: 'a device without an id (usb-mouse) was plugged in',
  },
];

/** Files and folders by the options that name them; all that has no slash in its name is made and removed. */
const FILES = [
  ['a pair of pipes', 'mkfifo f.in f.out', '-chardev pipe,id=c,path=f'],
  ['a module of a multiboot kernel', 'touch first f', `-kernel ${bareGuestFile()} -initrd "first a=1,f b"`],
  [
    'a picture of the firmware',
    String.raw`(printf BM; head -c 26 /dev/zero; printf '\30'; head -c 61 /dev/zero) > f`,
    '-boot menu=on,splash=./f',
  ],
  ['a table of the firmware', 'head -c 64 /dev/zero > f', '-acpitable sig=TEST,data=f'],
  ['a list of trace events', 'echo qmp_job_cancel > f', '-trace events=f'],
  ['the folder of a display', 'mkdir f', '-vnc unix:f/vnc'],
  ['the folder of memory', 'mkdir f', '-object memory-backend-file,id=m,size=1M,mem-path=f/m'],
  ['the ROM of a device', 'head -c 512 /dev/zero > f', '-device virtio-net-pci,romfile=./f'],
  ['a ROM', 'head -c 512 /dev/zero > f', '-option-rom ./f'],
  ['a folder of firmware', 'mkdir f; cp -L "$BIOS" f/mine.bin', '-L f -bios mine.bin'],
  ['an item of the firmware', 'echo x > f', '-fw_cfg name=opt/x,file=f'],
  ['a secret', 'echo x > f', '-object secret,id=s,file=f'],
  ['a shared folder', 'mkdir f', '-virtfs local,path=f,mount_tag=t,security_model=none'],
  ['a folder as a disk', 'mkdir f', '-drive if=none,id=d,format=raw,readonly=on,file=fat:f'],
  [
    'a disk as a tree',
    'truncate -s 1M f',
    `-drive 'if=none,id=d,readonly=on,file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"f"}}'`,
  ],
] as const;

/** Of this test alone: other checkouts may run it, too. */
const TAP = `gone-${process.pid}`;

const CASES: readonly Case[] = [
  ...FILES.map(([title, make, args]): Case => ({
    title: `${title} that has gone`,
    requirement: 'its files',
    script: `${make}; exec "$@" ${args}`,
    afterwards: (dir) => {
      for (const name of ['f', 'f.in', 'f.out'])
        rmSync(path.join(dir, name), { recursive: true, force: true });
    },
    code: 'HOST_FILE_MISSING',
    exitCode: 10,
    named: '/f does not exist',
  })),
  {
    title: 'a file name that is not UTF-8',
    requirement: 'readable names',
    script: String.raw`file=$'caf\xe9.img'; truncate -s 1M "$file"; exec "$@" -drive "if=none,id=d,readonly=on,format=raw,file=$file"`,
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: 'not UTF-8',
  },
  {
    title: 'a descriptor from -add-fd',
    requirement: 'nothing of the old process',
    script: 'truncate -s 1M disk; exec "$@" -add-fd fd=9,set=2 9<disk',
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: '-add-fd fd=9,set=2',
  },
  {
    title: 'a disk by /proc/self/fd',
    requirement: 'nothing of the old process',
    script:
      'truncate -s 1M disk; exec "$@" -blockdev driver=file,node-name=d,read-only=on,filename=/proc/self/fd/9 9<disk',
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: '/proc/self/fd/9',
  },
  {
    title: 'a socket that was passed in',
    requirement: 'nothing of the old process',
    script: `exec python3 -c 'import os, socket, sys
end, other = socket.socketpair(); os.dup2(end.fileno(), 9); os.dup2(other.fileno(), 10); os.set_inheritable(9, True); os.set_inheritable(10, True)
os.execvp(sys.argv[1], sys.argv[1:])' "$@" -chardev socket,id=c,fd=9`,
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: 'fd=9',
  },
  {
    title: 'options in a file that is gone',
    requirement: 'nothing of the old process',
    script: String.raw`printf '[name]\n  guest = "web"\n' > vm.cfg; exec "$@" -readconfig vm.cfg`,
    afterwards: (dir) => rmSync(path.join(dir, 'vm.cfg')),
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: '-readconfig vm.cfg',
  },
  {
    title: 'options in a file that has changed',
    requirement: 'nothing of the old process',
    script: String.raw`printf '[device "rng0"]\n  driver = "virtio-rng-pci"\n' > vm.cfg; exec "$@" -readconfig vm.cfg`,
    afterwards: (dir) => {
      const file = path.join(dir, 'vm.cfg');
      const before = statSync(file).ctimeMs;
      while (statSync(file).ctimeMs < before + 1000) appendFileSync(file, '# changed\n');
    },
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: '-readconfig vm.cfg',
  },
  {
    title: 'a QEMU that changes its root folder',
    requirement: 'nothing of the old process',
    script: 'mkdir jail; exec "$@" -chroot jail',
    needsRoot: true,
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: '-chroot jail',
  },
  ...REPLACED.map(({ title, driver, again, named }): Case => ({
    title,
    requirement: 'the parts it was started with',
    script: `truncate -s 1M one two; exec "$@" -device qemu-xhci,id=xhci \
        -drive if=none,id=one,readonly=on,format=raw,file=one -drive if=none,id=two,readonly=on,format=raw,file=two \
        -device ${driver},bus=xhci.0,port=3`,
    monitor: [
      ['device_del', { id: driver.includes('id=part') ? 'part' : '/machine/peripheral-anon/device[0]' }],
      ['device_add', { bus: 'xhci.0', port: '3', ...again }],
    ],
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named,
  })),
  {
    title: 'a disk that was given another of its drives',
    requirement: 'the parts it was started with',
    script: `truncate -s 1M one two; exec "$@" -device virtio-blk-pci,id=part,drive=one \
      -blockdev driver=file,node-name=one,filename=one,read-only=on -blockdev driver=file,node-name=two,filename=two,read-only=on`,
    monitor: [['qom-set', { path: '/machine/peripheral/part', property: 'drive', value: 'two' }]],
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: 'the device "part" has the drive "two", and "one" in the command line',
  },
  {
    title: 'another network namespace',
    requirement: 'the same place',
    script: 'exec unshare --net -- "$@"',
    needsRoot: true,
    code: 'PLACE_DIFFERS',
    exitCode: 14,
    named: 'network namespace',
  },
  {
    title: 'another mount namespace',
    requirement: 'the same place',
    script: 'exec unshare --mount -- "$@"',
    needsRoot: true,
    code: 'PLACE_DIFFERS',
    exitCode: 14,
    named: 'mount namespace',
  },
  {
    title: 'another PID namespace',
    requirement: 'the same place',
    script: 'exec unshare --pid --fork -- "$@"',
    needsRoot: true,
    code: 'PLACE_DIFFERS',
    exitCode: 14,
    named: 'PID namespace',
  },
  {
    title: "another user, who may not enter the saver's folder",
    requirement: 'a user it may be',
    script: 'chmod 755 . ..; chown 4242 .; exec setpriv --reuid=4242 --regid=4242 --clear-groups -- "$@"',
    env: (dir) => {
      const closed = path.join(dir, 'closed');
      mkdirSync(closed, { recursive: true, mode: 0o700 });
      return { VMCKPT_RUNTIME_DIR: path.join(closed, 'run') };
    },
    needsRoot: true,
    code: 'NOT_PERMITTED',
    exitCode: 12,
    named: '4242',
  },
  {
    title: 'a folder that has gone',
    requirement: 'its folder',
    script: 'mkdir gone; cd gone; exec "$@"',
    afterwards: (dir) => rmSync(path.join(dir, 'gone'), { recursive: true }),
    code: 'HOST_FILE_MISSING',
    exitCode: 10,
    named: '/gone',
  },
  {
    title: 'a folder that is not known any more',
    requirement: 'its folder',
    script: 'echo secret > key; cd /; exec env -C "$DIR" "$@" -object secret,id=s,file=key -daemonize',
    code: 'COMMAND_LINE_UNSUPPORTED',
    exitCode: 14,
    named: 'file=key',
  },
  {
    title: 'a disk that was replaced',
    requirement: 'its images',
    script: 'truncate -s 1M disk other; exec "$@" -drive if=none,id=d,readonly=on,format=raw,file=disk',
    afterwards: (dir) => renameSync(path.join(dir, 'other'), path.join(dir, 'disk')),
    code: 'HOST_FILE_MISSING',
    exitCode: 10,
    named: 'disk image disk',
  },
  {
    title: 'a disk below an overlay that was deleted',
    requirement: 'its images',
    script:
      'truncate -s 1M base; qemu-img create -q -f qcow2 -b base -F raw top; exec "$@" -drive if=none,id=d,readonly=on,file=top',
    afterwards: (dir) => rmSync(path.join(dir, 'base')),
    code: 'HOST_FILE_MISSING',
    exitCode: 10,
    named: 'base',
  },
  {
    title: 'a file of the firmware that was deleted',
    requirement: 'its files',
    script: 'cp -L "$BIOS" bios.bin; exec "$@" -bios ./bios.bin',
    afterwards: (dir) => rmSync(path.join(dir, 'bios.bin')),
    code: 'HOST_FILE_MISSING',
    exitCode: 10,
    named: 'bios.bin',
  },
  {
    title: "a socket's folder that has gone",
    requirement: 'its files',
    script: 'mkdir sockets; exec "$@" -serial unix:sockets/serial,server=on,wait=off',
    afterwards: (dir) => rmSync(path.join(dir, 'sockets'), { recursive: true }),
    code: 'HOST_FILE_MISSING',
    exitCode: 10,
    named: '/sockets',
  },
  {
    title: 'a tap interface that was removed',
    requirement: 'its tap interfaces',
    script: `ip tuntap add dev ${TAP} mode tap; exec "$@" -netdev tap,id=n,ifname=${TAP},script=no,downscript=no`,
    afterwards: () => execFileSync('ip', ['link', 'del', TAP]),
    needsRoot: true,
    code: 'PLACE_DIFFERS',
    exitCode: 14,
    named: TAP,
  },
  {
    title: 'a runtime folder with a long name',
    requirement: 'socket paths',
    script: 'exec "$@"',
    env: (dir) => ({ VMCKPT_RUNTIME_DIR: path.join(dir, 'x'.repeat(90)) }),
    code: 'PATH_TOO_LONG',
    exitCode: 14,
    named: 'x'.repeat(90),
  },
];

/** A restore without a word about it. */
const RESTORABLE = [
  {
    title: 'options in a file',
    script: String.raw`cat > vm.cfg <<'CONFIG'
# comment
[name]
  guest = "a,b"
[memory]
  size = "32M"
[chardev "c"]
  backend = "socket"
  path = "c,1.sock"
  server = "on"
  wait = "off"
[device "serial"]
  driver = "virtio-serial-pci"

[device]
  driver = "virtserialport"
  chardev = "c"
[device "rng0"]
  driver = "virtio-rng-pci"
  addr = "0x1e"
[global]
  driver = "virtio-balloon-pci"
  property = "deflate-on-oom"
  value = "on"
[object "io0"]
  qom-type = "iothread"
[drive "d"]
  if = "none"
  file = "null-co://"
  format = "raw"
  readonly = "on"
[netdev "n"]
  type = "user"
[boot-opts]
  menu = "off"
[smp-opts]
  cpus = "2"
[machine]
  usb = "off"
CONFIG
exec "$@" -device virtio-net-pci,netdev=n -readconfig vm.cfg -device virtio-balloon-pci`,
  },
  {
    title: 'a disk in the folder of the process',
    script:
      'truncate -s 1M x.img; mkdir in; cd in; exec "$@" -drive if=none,id=d,readonly=on,format=raw,file=/proc/self/cwd/../x.img',
  },
];

/** Of every VM here a save with --quit says that. */
const PAUSED = 'The VM was paused. It stays so when it is restored, unless with vmckpt restore --run.';

describe('a save knows what its restore would refuse', () => {
  const { directory, run } = cliSuite();
  endScriptedVms();
  let count = 0;

  async function start({ script, env }: Pick<Case, 'script' | 'env'>) {
    const dir = path.join(directory, String(++count));
    mkdirSync(dir);
    const variables = env?.(dir) ?? { VMCKPT_RUNTIME_DIR: path.join(dir, 'run') };
    Object.assign(process.env, variables);
    return startScriptedVm({ script, dir });
  }

  async function tell({ qmpSocket }: ScriptedVm, commands: NonNullable<Case['monitor']>): Promise<void> {
    if (commands.length === 0) return;
    const qmp = await connectWhenReady(qmpSocket);
    for (const [command, args] of commands) await qmp.execute(command, args);
    await qmp.close();
  }

  it('in each of its requirements', () => {
    const tried = new Set(CASES.map(({ requirement }) => requirement));
    expect([...tried].sort()).toEqual(Object.keys(REQUIREMENTS).sort());
  });

  for (const each of CASES)
    it.runIf(isRoot || !each.needsRoot)(each.title, async () => {
      const { code, exitCode } = each;
      const vm = await start(each);
      each.afterwards?.(vm.dir);
      await tell(vm, each.monitor ?? []);
      const message = expect.stringContaining(each.named) as string;
      const hint = expect.stringContaining('--own-command-line') as string;
      await expect(saveTinyVm(vm, { quit: true, method: 'stopped' })).rejects.toMatchObject({
        code,
        exitCode,
        message,
        hint,
      });
      expect(identifyProcess(vm.pid)).toBeDefined();

      const said: string[] = [];
      const report = await saveTinyVm(vm, { onMessage: (text) => said.push(text) });
      expect(report.restoreProblems).toContainEqual({ code, message });
      expect(said.filter((text) => text.startsWith('A restore would refuse'))).toEqual([message]);
      const { restoreProblems } = readManifest(path.join(vm.dir, 'store', 'web', '1'));
      expect(restoreProblems).toContainEqual({ code, message });
      await saveTinyVm(vm, { method: 'stopped', ownCommandLine: true });
      await endScriptedVm(vm);
      await expect(restoreTinyVm(vm)).rejects.toMatchObject({ code, exitCode, message });
    });

  it('naming an open file once, and nothing that is not true', async () => {
    const script =
      'truncate -s 1M disk; exec "$@" -add-fd fd=9,set=2 -drive if=none,id=d,readonly=on,format=raw,file=/dev/fdset/2 9<disk';
    const vm = await start({ script });
    await expect(saveTinyVm(vm, { method: 'stopped' })).rejects.toMatchObject({
      message:
        'a restore would refuse this VM: -add-fd fd=9,set=2 uses a file descriptor of the old process: it cannot be repeated for a restore',
    });
  });

  for (const { title, script } of RESTORABLE)
    it(`and takes ${title}`, async () => {
      const vm = await start({ script });
      const said: string[] = [];
      const report = await saveTinyVm(vm, {
        method: 'stopped',
        quit: true,
        onMessage: (text) => said.push(text),
      });
      expect(report.restoreProblems).toEqual([]);
      expect(said).toEqual([PAUSED]);
      await endScriptedVm(vm);
      const restored = await restoreTinyVm(vm);
      expect(identifyProcess(restored.qemuPid!)).toBeDefined();
    });

  it('also a program that QEMU is connected to, unless it connects again', async () => {
    const dir = path.join(directory, String(++count));
    mkdirSync(dir);
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
    const clients = new Set<net.Socket>();
    const peer = net.createServer((client) => void clients.add(client)).listen(path.join(dir, 'peer'));
    const script =
      'exec "$@" -chardev socket,id=c,path=peer -chardev socket,id=d,path=peer,reconnect=1 -chardev socket,id=own,path=own,server=on,wait=off -chardev socket,id=e,path=own';
    const vm = await startScriptedVm({ script, dir });
    await saveTinyVm(vm, { method: 'stopped' });
    peer.close();
    for (const client of clients) client.destroy();
    const refused = { code: 'HOST_FILE_MISSING', exitCode: 10 };
    const saved = saveTinyVm(vm, { method: 'stopped', quit: true });
    await expect(saved).rejects.toMatchObject(refused);
    const message = (await saved.catch((error: Error) => error)) as Error;
    expect(message.message).toMatch(/id=c,path=peer: the program/);
    expect(message.message).not.toMatch(/id=(d|e),/);
    await endScriptedVm(vm);
    await expect(restoreTinyVm(vm)).rejects.toMatchObject(refused);
  });

  it('and saves it with the word of a user who has another command line', async () => {
    const vm = await start(CASES.find(({ title }) => title === 'a descriptor from -add-fd')!);
    const env = { VMCKPT_STORE: path.join(vm.dir, 'store') };
    const save = ['save', '--quit', `qmp:${vm.qmpSocket}`, 'web'];
    expect(await run(save, { env })).toMatchObject({ code: 14 });
    expect((await run(['list'], { env })).code).toBe(10);
    expect(await run([...save, '--own-command-line'], { env })).toMatchObject({
      code: 0,
      stderr: `${PAUSED}\n`,
    });
    expect((await run(['list'], { env })).stdout).toContain('needs a command line of its own');
    expect((await run(['show', 'web'], { env })).stdout).toContain('-add-fd fd=9,set=2');
    await endScriptedVm(vm);
    const restored = await restoreTinyVm(vm, { qemuArgs: TINY });
    expect(identifyProcess(restored.qemuPid!)).toBeDefined();
  });

  it('but not what another mode of restore brings back: that is taken by itself', async () => {
    const dir = path.join(directory, String(++count));
    mkdirSync(dir);
    // Memory that is only read comes on demand only where its file is empty.
    const script =
      'head -c 64M /dev/zero | tr "\\0" x > ram; exec "$@" -object memory-backend-file,id=m,size=64M,mem-path=ram,share=off -machine memory-backend=m';
    const vm = await startScriptedVm({ script, dir });
    await saveTinyVm(vm, { method: 'stopped', quit: true });
    await endScriptedVm(vm);
    await expect(restoreTinyVm(vm, { mode: 'prefetch' })).rejects.toMatchObject({ exitCode: 14 });
    const said: string[] = [];
    const onMessage = (text: string) => void said.push(text);
    const restored = await restoreTinyVm(vm, { mode: 'prefetch', mayFallBack: true, onMessage });
    expect(restored.mode).toBe('eager');
    expect(said).toContainEqual(expect.stringContaining('--mode eager'));
  });
});
