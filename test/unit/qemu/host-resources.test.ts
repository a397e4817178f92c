import { describe, expect, it } from 'vitest';
import { parseCommandLine } from '../../../src/qemu/command-line.js';
import { collisionCandidates, touchesOf } from '../../../src/qemu/host-resources.js';

function resources(...args: string[]): unknown[] {
  return collisionCandidates(args, '/home/vm').map(({ resource }) => resource);
}

describe('collisionCandidates', () => {
  it('finds forwarded ports, of either protocol and address family', () => {
    const forwards = 'user,id=n,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-:53,hostfwd=tcp:[::1]:80-:80';
    expect(resources('-netdev', forwards)).toEqual([
      { kind: 'port', protocol: 'tcp', host: '127.0.0.1', port: 2222 },
      { kind: 'port', protocol: 'udp', host: '', port: 53 },
      { kind: 'port', protocol: 'tcp', host: '::1', port: 80 },
    ]);
  });

  it('finds listening sockets, with relative paths resolved', () => {
    expect(
      resources('-qmp', 'unix:q.sock,server=on', '-serial', 'telnet:localhost:4000,server,nowait'),
    ).toEqual([
      { kind: 'socket', path: '/home/vm/q.sock' },
      { kind: 'port', protocol: 'tcp', host: 'localhost', port: 4000 },
    ]);
    expect(resources('-chardev', 'socket,id=c,path=/x', '-serial', 'null')).toEqual([]);
  });

  it('finds files that the guest has its memory in, not those that it only reads', () => {
    expect(resources('-object', 'memory-backend-file,id=m,size=1G,mem-path=ram,share=on')).toEqual([
      { kind: 'memoryFile', path: '/home/vm/ram' },
    ]);
    expect(resources('-object', 'memory-backend-file,id=m,size=1G,mem-path=ram')).toEqual([]);
    expect(resources('-object', 'memory-backend-memfd,id=m,size=1G,share=on')).toEqual([]);
  });

  it('finds ports for datagrams, of the debugger and of SPICE; not those that the kernel chooses', () => {
    const port = (protocol: string, host: string, number: number) => ({
      kind: 'port',
      protocol,
      host,
      port: number,
    });
    expect(resources('-serial', 'udp:h:7@127.0.0.1:9', '-chardev', 'udp,id=c,port=7')).toEqual([
      port('udp', '127.0.0.1', 9),
    ]);
    expect(resources('-netdev', 'socket,id=n,udp=h:7,localaddr=:9')).toEqual([port('udp', '', 9)]);
    expect(
      resources('-netdev', 'dgram,id=n,local.type=inet,local.host=::1,local.port=9,remote.host=h'),
    ).toEqual([port('udp', '::1', 9)]);
    expect(resources('-netdev', 'dgram,id=n,local.type=unix,local.path=/l')).toEqual([
      { kind: 'socket', path: '/l' },
    ]);
    expect(resources('-s', '-spice', 'port=5930')).toEqual([port('tcp', '', 1234), port('tcp', '', 5930)]);
  });

  it('finds displays, taps, vsock ids and pid files', () => {
    expect(resources('-vnc', '127.0.0.1:2')).toEqual([
      { kind: 'port', protocol: 'tcp', host: '127.0.0.1', port: 5902 },
    ]);
    expect(resources('-vnc', '127.0.0.1:2,websocket=on')).toEqual(
      [5902, 5702].map((port) => ({ kind: 'port', protocol: 'tcp', host: '127.0.0.1', port })),
    );
    expect(resources('-display', 'vnc=unix:/x')).toEqual([{ kind: 'socket', path: '/x' }]);
    expect(resources('-vnc', ':1,to=9', '-vnc', 'none')).toEqual([]);
    expect(resources('-netdev', 'tap,id=n,ifname=tap7')).toEqual([{ kind: 'tap', interface: 'tap7' }]);
    expect(resources('-netdev', 'tap,id=n')).toEqual([]);
    expect(resources('-device', '{"driver":"vhost-vsock-pci","guest-cid":5}')).toEqual([
      { kind: 'vsock', cid: 5 },
    ]);
    expect(resources('-pidfile', 'vm.pid')).toEqual([{ kind: 'pidfile', path: '/home/vm/vm.pid' }]);
  });
});

describe('touchesOf', () => {
  const touches = (...words: string[]) => parseCommandLine(words).flatMap((option) => touchesOf(option));

  it.each([
    ['-netdev', 'user,id=n,hostfwd=tcp::1-:2'],
    ['-nic', 'none'],
    ['-m', '1G'],
    ['-chardev', 'null,id=c'],
    ['-serial', 'mon:stdio'],
    ['-device', 'virtio-net-pci,netdev=n,mac=52:54:00:12:34:56'],
    ['-device', 'virtio-9p-pci,fsdev=f,mount_tag=t'],
    ['-object', 'memory-backend-memfd,id=m,size=1G,share=on'],
    ['-object', 'memory-backend-file,id=m,size=1G,mem-path=/x'],
    ['-display', 'gtk,gl=on'],
    ['-audiodev', 'none,id=a'],
    ['-drive', 'file=nbd://host/disk,format=qcow2,readonly=on'],
    ['-drive', 'file=json:{"driver":"qcow2"%2C"file":{"driver":"file"}},readonly=on'.replace('%2C', ',,')],
    ['-blockdev', '{"driver":"qcow2","file":{"driver":"nbd","server":{"type":"unix","path":"/s"}}}'],
    ['-hda', '/images/a.img'],
    ['-global', 'virtio-blk-pci.queue-size=4'],
  ])('nothing: %s %s', (...words) => {
    expect(touches(...words)).toEqual([]);
  });

  it.each([
    ['network', '-netdev', 'tap,id=n'],
    ['network', '-nic', 'bridge,br=br0,model=e1000'],
    ['network', '-netdev', 'vde,id=n,sock=/s'],
    ['enclosed', '-netdev', 'socket,id=n,mcast=230.0.0.1:9'],
    ['enclosed', '-netdev', 'stream,id=n,addr.type=inet,addr.host=h,addr.port=9'],
    ['network', '-netdev', 'stream,id=n,addr.type=unix,addr.path=/s'],
    ['shared', '-chardev', 'socket,id=c,path=/daemon'],
    ['shared', '-virtfs', 'local,path=/srv,mount_tag=t'],
    ['shared', '-audiodev', 'pa,id=a'],
    ['shared', '-netdev', 'user,id=n,smb=/srv'],
    ['single', '-netdev', 'l2tpv3,id=n,src=1.1.1.1,dst=1.1.1.2,txsession=1'],
    ['single', '-netdev', 'vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0'],
    ['single', '-netdev', 'vhost-user,id=n,chardev=c'],
    ['single', '-netdev', 'af-xdp,id=n,ifname=eth0'],
    ['single', '-netdev', 'passt,id=n'],
    ['single', '-netdev', 'vde,id=n,port=3'],
    ['single', '-tpmdev', 'passthrough,id=t'],
    ['single', '-device', 'vfio-pci,host=01:00.0'],
    ['single', '-device', 'vhost-user-fs-pci,chardev=c,tag=t'],
    ['single', '-device', 'ivshmem-doorbell,chardev=c'],
    ['single', '-device', 'scsi-generic,drive=d'],
    ['single', '-serial', '/dev/ttyS0'],
    ['single', '-object', 'memory-backend-file,id=m,size=1G,mem-path=/x,share=on'],
    ['single', '-icount', '1,rr=record,rrfile=/x'],
    ['single', '-plugin', 'libx.so'],
    ['single', '-display', 'dbus'],
    ['unknown', '-netdev', 'warp,id=n'],
    ['unknown', '-netdev', 'user,id=n,tunnel=/dev/x'],
    ['unknown', '-chardev', 'warp,id=c'],
    ['unknown', '-device', 'warp-drive-pci'],
    ['unknown', '-device', 'virtio-blk-pci,datafile=/x'],
    ['unknown', '-object', 'input-linux,id=i,evdev=/dev/input/event0'],
    ['unknown', '-object', 'warp,id=w'],
    ['unknown', '-display', 'warp'],
    ['unknown', '-audiodev', 'warp,id=a'],
    ['unknown', '-drive', 'file=nvme://0000:01:00.0/1,readonly=on'],
    ['unknown', '-blockdev', 'driver=virtio-blk-vfio-pci,path=/sys/x,node-name=n'],
    ['unknown', '-set', 'device.x.y=z'],
    ['unknown', '-global', 'vhost-vsock-pci.guest-cid=3'],
    ['unknown', '-warp', 'x'],
  ])('%s: %s %s', (touch, ...words) => {
    expect(touches(...words)).toContain(touch);
  });
});
