import { describe, expect, it } from 'vitest';
import type { Manifest } from '../../../src/checkpoint/manifest.js';
import { ownMachine } from '../../../src/learn/own-machine.js';

const FOLDER = '/tmp/own';

function own(args: readonly string[], disks: readonly Partial<Manifest['blockDevices'][number]>[] = []) {
  const manifest = { commandLine: args, workingDirectory: '/vm', blockDevices: disks };
  return ownMachine(manifest as unknown as Manifest, FOLDER);
}

describe('the machine of a VM that learns', () => {
  it.each([
    [
      ['-qmp', 'unix:web.qmp,server=on,wait=off'],
      ['-qmp', 'unix:/tmp/own/web.qmp,server=on,wait=off'],
    ],
    [
      ['-monitor', 'unix:/run/m,server,nowait'],
      ['-monitor', 'unix:/tmp/own/m,server,nowait'],
    ],
    [
      ['-serial', 'mon:unix:a,,b,server'],
      ['-serial', 'mon:unix:/tmp/own/a,,b,server'],
    ],
    [
      ['-serial', 'file:/var/log/vm.log'],
      ['-serial', 'file:/tmp/own/vm.log'],
    ],
    [
      ['-D', 'qemu.log'],
      ['-D', '/tmp/own/qemu.log'],
    ],
    [
      ['-chardev', 'socket,id=c,path=/run/c.sock,server=on,logfile=/var/log/c,logappend=on'],
      ['-chardev', 'socket,id=c,path=/tmp/own/c.sock,server=on,logfile=/tmp/own/c,logappend=on'],
    ],
    [
      ['-drive', 'file=root.img,if=none,id=d'],
      ['-drive', 'file=root.img,if=none,id=d,snapshot=on'],
    ],
  ])('has sockets, logs and writes of its own: %j', (args, expected) => {
    expect(own(args, [{ node: 'd', file: '/vm/root.img', readOnly: !args.includes('-drive') }])).toEqual(
      expected,
    );
  });

  it('keeps files of one name apart', () => {
    const args = ['-serial', 'file:/a/log', '-serial', 'file:/b/log'];
    expect(own(args)).toEqual(['-serial', 'file:/tmp/own/log', '-serial', 'file:/tmp/own/log-2']);
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
  ])('keeps ports, and what is its own already: %j', (args) => {
    expect(own(args)).toEqual(args);
  });

  it.each([
    ['-netdev', 'tap,id=n,ifname=tap0'],
    ['-netdev', 'bridge,id=n'],
    ['-nic', 'vhost-user,chardev=c'],
    ['-chardev', 'socket,id=c,path=/run/virtiofsd.sock'],
    ['-serial', '/dev/ttyS0'],
    ['-device', 'vhost-vsock-pci,guest-cid=3'],
    ['-device', 'usb-host,vendorid=1'],
    ['-virtfs', 'local,path=/srv,mount_tag=t,security_model=none'],
    ['-object', 'memory-backend-file,id=m,mem-path=/dev/shm/m,size=1G,share=on'],
    ['-vnc', 'unix:/run/vnc'],
    ['-tpmdev', 'emulator,id=t,chardev=c'],
  ])('refuses by name what is the host’s: %s %s', (name, value) => {
    expect(() => own([name, value])).toThrow(`cannot share ${name} ${value}`);
  });

  it('refuses writable disks that get no overlay', () => {
    const disk = { node: 'disk', file: 'data.img', readOnly: false };
    expect(() => own(['-hda', 'data.img'], [disk])).toThrow('must not write to data.img');
    expect(() => own(['-blockdev', 'driver=file,filename=data.img,node-name=disk'], [disk])).toThrow(
      'data.img',
    );
  });
});
