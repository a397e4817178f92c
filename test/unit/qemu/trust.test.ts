import { describe, expect, it } from 'vitest';
import { rewriteForRestore } from '../../../src/qemu/restore-command-line.js';
import { untrustedOptions } from '../../../src/qemu/trust.js';

const HARMLESS: readonly (readonly string[])[] = [
  ['-machine', 'q35,accel=tcg', '-cpu', 'max', '-smp', '2', '-m', '1G', '-nodefaults', '-display', 'none'],
  ['-kernel', '/boot/vmlinuz', '-initrd', 'i', '-append', 'console=ttyS0 exec:sh'],
  ['-drive', 'file=disk.img,if=none,id=d,format=raw,readonly=on', '-device', 'virtio-blk-pci,drive=d'],
  ['-drive', 'file=disk.img,snapshot=on'],
  ['-snapshot', '-drive', 'file=disk.img', '-hda', 'x.img'],
  ['-cdrom', 'x.iso', '-drive', 'file=x.iso,media=cdrom'],
  ['-blockdev', '{"driver":"raw","node-name":"n","read-only":true,"file":{"driver":"file","filename":"/x"}}'],
  ['-netdev', 'user,id=n,hostfwd=tcp::2222-:22', '-device', 'virtio-net-pci,netdev=n,mac=52:54:00:1:2:3'],
  ['-netdev', 'tap,id=n,ifname=t0,script=no,downscript=no'],
  ['-qmp', 'unix:/tmp/q.sock,server=on,wait=off', '-serial', 'mon:stdio', '-monitor', 'none'],
  ['-chardev', 'socket,id=c,path=/run/c.sock,server=on', '-serial', 'chardev:c'],
  ['-object', 'rng-random,id=r,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=r'],
  ['-object', 'memory-backend-memfd,id=m,size=1G', '-vnc', '127.0.0.1:1', '-usbdevice', 'tablet'],
  ['-incoming', 'exec:sh', '-daemonize'],
];

const HARMFUL: readonly (readonly [string, ...string[]])[] = [
  ['-D', '/etc/cron.d/x'],
  ['-pidfile', '/etc/passwd'],
  ['-plugin', '/tmp/evil.so'],
  ['-trace', 'file=/etc/x'],
  ['-readconfig', 'x'],
  ['-dump-vmstate', '/etc/x'],
  ['-run-with', 'chroot=/'],
  ['-s'],
  ['-gdb', 'tcp::1234'],
  ['-brand-new', 'x'],
  ['-constructor', 'x'],
  ['-drive', 'file=/dev/sda,format=raw'],
  ['-drive', 'file=fat:rw:/etc'],
  ['-drive', 'file=nbd:host:1,readonly=on'],
  ['-drive', 'file=json:{},readonly=on'],
  ['-drive', 'file=x,format=vvfat,readonly=on'],
  ['-drive', 'file=x,readonly=on,backing.file.filename=/etc/shadow'],
  ['-blockdev', 'driver=file,node-name=n,filename=/dev/sda'],
  ['-blockdev', 'driver=qcow2,node-name=n,read-only=on,file=f,data-file.filename=/x'],
  ['-blockdev', 'driver=nbd,node-name=n,server.type=unix'],
  ['disk.img'],
  ['-pflash', 'vars.fd'],
  ['-mem-path', '/etc/x'],
  ['-object', 'memory-backend-file,id=m,mem-path=/x,size=1M,share=on'],
  ['-object', 'filter-dump,id=f,netdev=n,file=/x'],
  ['-object', 'input-linux,id=i,evdev=/dev/input/event0'],
  ['-device', 'vfio-pci,host=01:00.0'],
  ['-device', '{"driver":"usb-host","hostbus":1}'],
  ['-device', 'loader,file=/etc/shadow'],
  ['-device', 'virtio-input-host-pci,evdev=/dev/input/event0'],
  ['-global', 'vfio-pci.sysfsdev=/x'],
  ['-netdev', 'tap,id=n,script=/tmp/x,downscript=no'],
  ['-netdev', 'tap,id=n'],
  ['-netdev', 'bridge,id=n'],
  ['-netdev', 'user,id=n,guestfwd=tcp:10.0.2.1:1-cmd:sh'],
  ['-netdev', 'user,id=n,smb=/'],
  ['-nic', 'user,tftp=/'],
  ['-netdev', 'socket,id=n,connect=10.0.0.1:1'],
  ['-netdev', 'vhost-user,id=n,chardev=c'],
  ['-chardev', 'file,id=c,path=/etc/x'],
  ['-chardev', 'pipe,id=c,path=/x'],
  ['-chardev', 'null,id=c,logfile=/etc/x'],
  ['-chardev', 'socket,id=c,path=/run/docker.sock'],
  ['-chardev', 'socket,id=c,path=/etc/x,server=on'],
  ['-chardev', 'socket,id=c,path=/tmp/../etc/x,server=on'],
  ['-serial', 'file:/etc/x'],
  ['-serial', '/dev/ttyS0'],
  ['-serial', 'mon:vc'],
  ['-monitor', 'tcp::4444,server'],
  ['-monitor', 'vc'],
  ['-qmp', 'tcp:0:4444,server'],
  ['-vnc', ':0'],
  ['-display', 'vnc=:0'],
  ['-spice', 'port=1'],
  ['-fsdev', 'local,id=f,path=/,security_model=none'],
  ['-virtfs', 'local,path=/,mount_tag=t'],
  ['-tpmdev', 'passthrough,id=t'],
  ['-icount', 'shift=1,rr=record,rrfile=/etc/x'],
  ['-machine', 'q35,dumpdtb=/etc/x'],
  ['-audiodev', 'wav,id=a,path=/etc/x'],
];

describe('untrustedOptions', () => {
  it.each(HARMLESS.map((argv) => [argv]))('lets pass %j', (argv) => {
    expect(untrustedOptions(argv)).toEqual([]);
  });

  it.each(HARMFUL.map((argv) => [argv]))('stops %j', (argv) => {
    const [found] = untrustedOptions(argv);
    expect(found?.reason).toMatch(/\w/);
    expect(found?.option).toContain(argv.at(-1));
  });

  it('trusts what the rewriting for a restore adds', () => {
    const options = { monitorSocket: '/run/vmckpt/a/q', consoleSocket: '/run/vmckpt/a/c', paused: true };
    const { args } = rewriteForRestore(['-nographic', '-machine', 'q35'], options);
    expect(untrustedOptions(args)).toEqual([]);
  });
});
