import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { giveIdentity } from '../../../src/qemu/own-identity.js';

const DIRECTORY = '/run/vmckpt/vms/web.1';
const AGENT = [
  ...['-device', 'virtio-serial-pci', '-chardev', 'socket,id=a,path=/a.sock,server=on'],
  ...['-device', 'virtserialport,chardev=a,name=org.qemu.guest_agent.0'],
];

const cloneOf = (...args: string[]) => giveIdentity(args, { identity: 'clone', directory: DIRECTORY });
const originalOf = (...args: string[]) => giveIdentity(args, { identity: 'original', directory: DIRECTORY });
const trialOf = (...args: string[]) => giveIdentity(args, { identity: 'trial', directory: DIRECTORY });

describe('a VM in the place of the original', () => {
  it('keeps everything', async () => {
    const args = ['-qmp', 'unix:/tmp/q,server=on', '-drive', 'file=x', '-tpmdev', 'emulator,id=t', '-s'];
    expect(await originalOf(...args)).toEqual({ args, moved: [], overlaid: [] });
  });

  it('has for itself what its original, a clone, had in the folder of another VM', async () => {
    const { args } = await originalOf('-qmp', 'unix:/run/user/1/vmckpt/vms/web.9/own/q.sock,server=on');
    expect(args).toEqual(['-qmp', `unix:${DIRECTORY}/own/q.sock,server=on`]);
  });
});

describe('a clone', () => {
  it("has its sockets and logs in its own folder, under names of their own, and leaves vmckpt's", async () => {
    const monitor = `unix:${DIRECTORY}/qmp.sock,server=on,wait=off`;
    const sockets = ['/tmp/a/qmp.sock', '/tmp/b/qmp.sock'].map((file) => `unix:${file},server=on`);
    const { args, moved } = await cloneOf(...[monitor, ...sockets].flatMap((value) => ['-qmp', value]));
    expect(args.filter((word) => word !== '-qmp')).toEqual([
      monitor,
      `unix:${DIRECTORY}/own/qmp.sock,server=on`,
      `unix:${DIRECTORY}/own/qmp-2.sock,server=on`,
    ]);
    expect(moved.map(({ to }) => path.basename(to))).toEqual(['qmp.sock', 'qmp-2.sock']);
  });

  it('has free ports and a free vsock id, others each time', async () => {
    const args = [
      '-netdev',
      'user,id=n,hostfwd=tcp:127.0.0.1:1-:22',
      '-device',
      'vhost-vsock-pci,guest-cid=3',
    ];
    const [first, second] = [await cloneOf(...args, '-vnc', ':0'), await cloneOf(...args, '-vnc', ':0')];
    for (const [index, { to }] of first.moved.entries()) expect(to).not.toBe(second.moved[index]!.to);
    expect(first.moved.map(({ what }) => what)).toEqual(['port', 'vsock id', 'display']);
  });

  it('has a display whose port for websockets is free, too', async () => {
    const servers = [5700, 5701].map((port) => net.createServer().listen(port, '127.0.0.1'));
    onTestFinished(() => servers.forEach((server) => server.close()));
    await Promise.all(servers.map((server) => once(server, 'listening')));
    const { args } = await cloneOf('-vnc', '127.0.0.1:77,websocket=on');
    const [, display] = /^127\.0\.0\.1:(\d+),websocket=on$/.exec(args[1]!)!;
    expect(Number(display)).toBeGreaterThan(1);
    // The next clone has neither of the two.
    const next = await cloneOf('-vnc', `127.0.0.1:77,websocket=${5700 + Number(display)}`);
    expect(next.args[1]).not.toContain(`:${display},`);
  });

  it.each([
    ['-drive', 'file=x,if=virtio', 'file=x,if=virtio,snapshot=on'],
    ['-drive', 'file=x,snapshot=off', 'file=x,snapshot=on'],
    ['-drive', 'file=x,snapshot=on,nosnapshot', 'file=x,snapshot=on,snapshot=on'],
    ['-drive', 'file=x,read-only=on,noread-only', 'file=x,read-only=on,read-only=off,snapshot=on'],
    ['-drive', 'file=x,readonly=on', 'file=x,readonly=on'],
    ['-drive', 'file=x,media=cdrom', 'file=x,media=cdrom'],
    ['-drive', 'if=none,id=empty', 'if=none,id=empty'],
    ['-drive', 'file=null-co://,if=none', 'file=null-co://,if=none'],
    ['-blockdev', 'driver=file,node-name=f,filename=x,read-only=on', undefined],
    ['-blockdev', '{"driver":"file","node-name":"f","filename":"x","auto-read-only":true}', undefined],
  ])('writes to no disk that it shares: %s %s', async (name, before, after = before) => {
    const { args, overlaid } = await cloneOf(name, before);
    expect(args).toEqual([name, after]);
    expect(overlaid).toEqual(before === after ? [] : ['x']);
  });

  it('writes to no disk on the network either', async () => {
    const disk = 'file.driver=rbd,file.pool=p,file.image=i';
    const { args, overlaid } = await cloneOf('-drive', disk);
    expect(args).toEqual(['-drive', `${disk},snapshot=on`]);
    expect(overlaid).toEqual(['rbd']);
  });

  it('writes -hda as a drive with an overlay; -snapshot does for all', async () => {
    expect((await cloneOf('-hdb', 'a,b')).args).toEqual([
      '-drive',
      'file=a,,b,index=1,media=disk,snapshot=on',
    ]);
    expect((await cloneOf('-hda', 'x', '-snapshot')).args).toEqual(['-hda', 'x', '-snapshot']);
    const explicit = ['-drive', 'file=x,snapshot=off', '-snapshot'];
    expect((await cloneOf(...explicit)).args).toEqual(['-drive', 'file=x,snapshot=on', '-snapshot']);
  });

  it.each([
    [['-blockdev', 'driver=file,node-name=f,filename=x']],
    [['-blockdev', 'driver=file,node-name=f,filename=x,auto-read-only=on', '-device', 'ide-hd,drive=f']],
    [['-pflash', 'vars.fd']],
    [['-blockdev', 'driver=file,node-name=f,filename=x,auto-read-only=off']],
    [['-blockdev', 'driver=file,node-name=f,filename=x,auto-read-only=on', '-machine', 'q35,pflash0=f']],
    [['-fda', 'floppy.img']],
  ])('is refused with a writable disk that cannot have an overlay: %j', async (args) => {
    await expect(cloneOf(...args)).rejects.toMatchObject({
      code: 'DISKS_WRITABLE',
      message: expect.stringContaining(`${args[0]} ${args[1]}`) as string,
    });
  });

  it.each([
    [['-tpmdev', 'emulator,id=t,chardev=c']],
    [['-device', 'usb-host,vendorid=1']],
    [['-chardev', 'pipe,id=c,path=/fifo']],
    [['-serial', '/dev/ttyS0']],
    [['-object', 'memory-backend-file,id=m,mem-path=/m,share=on,size=1G']],
    [['-netdev', 'tap,id=n']],
    [['-nic', 'bridge,br=br0', ...AGENT]],
  ])('is refused with what only one VM can have: %j', async (args) => {
    await expect(cloneOf(...args)).rejects.toMatchObject({
      code: 'COMMAND_LINE_UNSUPPORTED',
      message: expect.stringContaining(`${args[0]} ${args[1]}`) as string,
    });
  });

  it('says of what it does not know that it does not', async () => {
    await expect(cloneOf('-warp', 'drive=on', '-netdev', 'vhost-vdpa,id=n,vhostdev=/dev/v')).rejects.toThrow(
      'a clone cannot share -warp drive=on (vmckpt does not know what of the host it takes); -netdev vhost-vdpa,id=n,vhostdev=/dev/v',
    );
  });

  it('may be on a shared network when an agent can change its MAC address', async () => {
    const args = ['-netdev', 'tap,id=n,script=no', ...AGENT];
    expect((await cloneOf(...args)).args).toContain('tap,id=n,script=no');
  });
});

describe('a VM that learns', () => {
  it.each([
    [
      ['-qmp', 'unix:web.qmp,server=on,wait=off'],
      ['-qmp', `unix:${DIRECTORY}/own/web.qmp,server=on,wait=off`],
    ],
    [
      ['-monitor', 'unix:/run/m,server,nowait'],
      ['-monitor', `unix:${DIRECTORY}/own/m,server=on,wait=off`],
    ],
    [
      ['-serial', 'mon:unix:a,,b,server'],
      ['-serial', `mon:unix:${DIRECTORY}/own/a,,b,server=on`],
    ],
    [
      ['-serial', 'file:/var/log/vm.log'],
      ['-serial', `file:${DIRECTORY}/own/vm.log`],
    ],
    [
      ['-D', 'qemu.log'],
      ['-D', `${DIRECTORY}/own/qemu.log`],
    ],
    [
      ['-chardev', 'socket,id=c,path=/run/c.sock,server=on,logfile=/var/log/c,logappend=on'],
      [
        '-chardev',
        `socket,id=c,path=${DIRECTORY}/own/c.sock,server=on,logfile=${DIRECTORY}/own/c,logappend=on`,
      ],
    ],
    [
      ['-vnc', 'unix:/run/vnc'],
      ['-vnc', `unix:${DIRECTORY}/own/vnc`],
    ],
    [
      ['-drive', 'file=root.img,if=none,id=d'],
      ['-drive', 'file=root.img,if=none,id=d,snapshot=on'],
    ],
    [
      ['-hda', 'data.img'],
      ['-drive', 'file=data.img,index=0,media=disk,snapshot=on'],
    ],
  ])('has sockets, logs and writes of its own: %j', async (args, expected) => {
    expect((await trialOf(...args)).args).toEqual(expected);
  });

  it('keeps files of one name apart', async () => {
    const { args } = await trialOf('-serial', 'file:/a/log', '-serial', 'file:/b/log');
    expect(args).toEqual(['-serial', `file:${DIRECTORY}/own/log`, '-serial', `file:${DIRECTORY}/own/log-2`]);
  });

  it.each([
    [['-netdev', 'user,id=n,hostfwd=tcp:127.0.0.1:8080-:80']],
    [['-nic', 'none']],
    [['-qmp', 'tcp:localhost:4444,server=on,wait=off']],
    [['-drive', 'file=root.img,readonly=on']],
    [['-vnc', ':1']],
    [['-serial', 'chardev:c', '-serial', 'null', '-S']],
    [['-virtfs', 'local,path=/srv,mount_tag=t,security_model=none,readonly=on']],
    [['-append', 'console=ttyS0 unix:x']],
  ])('keeps ports, and what is its own already: %j', async (args) => {
    expect((await trialOf(...args)).args).toEqual(args);
  });

  it.each([
    ['-netdev', 'tap,id=n,ifname=tap0'],
    ['-netdev', 'bridge,id=n'],
    ['-nic', 'vhost-user,chardev=c'],
    ['-chardev', 'socket,id=c,path=/run/virtiofsd.sock'],
    ['-serial', '/dev/ttyS0'],
    ['-device', 'vhost-vsock-pci,guest-cid=3'],
    ['-device', 'usb-host,vendorid=1'],
    ['-device', 'vfio-pci,host=01:00.0'],
    ['-virtfs', 'local,path=/srv,mount_tag=t,security_model=none'],
    ['-object', 'memory-backend-file,id=m,mem-path=/dev/shm/m,size=1G,share=on'],
    ['-tpmdev', 'emulator,id=t,chardev=c'],
    ['-display', 'dbus,addr=unix:path=/run/bus'],
    ['-audiodev', 'pa,id=a'],
    ['-audiodev', 'wav,id=a'],
  ])('is refused by name with what is the host’s: %s %s', async (name, value) => {
    await expect(trialOf(name, value)).rejects.toThrow(`a VM that learns cannot share ${name} ${value}`);
  });

  it('is refused with writable disks that get no overlay', async () => {
    await expect(trialOf('-blockdev', 'driver=file,filename=data.img,node-name=disk')).rejects.toMatchObject({
      code: 'DISKS_WRITABLE',
      message: expect.stringContaining('data.img') as string,
    });
  });
});
