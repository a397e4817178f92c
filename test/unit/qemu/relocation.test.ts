import { describe, expect, it } from 'vitest';
import { parseCommandLine, toArgv } from '../../../src/qemu/command-line.js';
import { relocate, type Moved, type Places } from '../../../src/qemu/relocation.js';

/** Ports go up by one, ids too, files to /own. */
const ELSEWHERE: Places = {
  file: (from) => `/own/${from.slice(from.lastIndexOf('/') + 1)}`,
  port: ({ port }) => port + 1,
  vsockId: (id) => id + 1,
};
const NOWHERE: Places = { file: (from) => from, port: ({ port }) => port, vsockId: (id) => id };

function moveAll(...args: string[]): { args: string[]; moved: readonly Moved[] } {
  const { options, moved } = relocate(parseCommandLine(args), ELSEWHERE);
  return { args: toArgv(options), moved };
}

describe('relocate', () => {
  it.each([
    ['-qmp', 'unix:/tmp/q.sock,server=on,wait=off', 'unix:/own/q.sock,server=on,wait=off'],
    ['-serial', 'mon:unix:/tmp/a,,b,server,nowait', 'mon:unix:/own/a,,b,server=on,wait=off'],
    ['-serial', 'telnet:localhost:4000,server,nowait', 'telnet:localhost:4001,server=on,wait=off'],
    ['-monitor', 'tcp:[::1]:4000,server=on', 'tcp:[::1]:4001,server=on'],
    ['-serial', 'file:/var/log/vm.log', 'file:/own/vm.log'],
    [
      '-chardev',
      'socket,id=c,path=/p/c.sock,server=on,logfile=c.log,logappend=on',
      'socket,id=c,path=/own/c.sock,server=on,logfile=/own/c.log,logappend=on',
    ],
    ['-chardev', 'socket,id=c,host=::1,port=99,server=on', 'socket,id=c,host=::1,port=100,server=on'],
    ['-gdb', 'tcp::1234', 'tcp::1235'],
    [
      '-netdev',
      'user,id=n,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-10.0.2.15:53,hostfwd=tcp:[::1]:80-:80',
      'user,id=n,hostfwd=tcp:127.0.0.1:2223-:22,hostfwd=udp::54-10.0.2.15:53,hostfwd=tcp:[::1]:81-:80',
    ],
    [
      '-netdev',
      '{"type":"user","id":"n","hostfwd":[{"str":"tcp::2222-:22"}],"ipv6":false}',
      '{"type":"user","id":"n","hostfwd":[{"str":"tcp::2223-:22"}],"ipv6":false}',
    ],
    ['-netdev', 'socket,id=n,listen=:4321', 'socket,id=n,listen=:4322'],
    ['-netdev', 'socket,id=n,listen=4321', 'socket,id=n,listen=4322'],
    [
      '-netdev',
      'stream,id=n,server=on,addr.type=unix,addr.path=/s',
      'stream,id=n,server=on,addr.type=unix,addr.path=/own/s',
    ],
    [
      '-netdev',
      'socket,id=n,udp=127.0.0.1:4000,localaddr=127.0.0.1:4001',
      'socket,id=n,udp=127.0.0.1:4000,localaddr=127.0.0.1:4002',
    ],
    [
      '-netdev',
      'dgram,id=n,local.type=inet,local.host=127.0.0.1,local.port=7,remote.type=inet,remote.host=::1,remote.port=8',
      'dgram,id=n,local.type=inet,local.host=127.0.0.1,local.port=8,remote.type=inet,remote.host=::1,remote.port=8',
    ],
    [
      '-netdev',
      '{"type":"dgram","id":"n","local":{"type":"unix","path":"/l"},"remote":{"type":"unix","path":"/r"}}',
      '{"type":"dgram","id":"n","local":{"type":"unix","path":"/own/l"},"remote":{"type":"unix","path":"/r"}}',
    ],
    ['-chardev', 'udp,id=c,host=h,port=7,localport=9', 'udp,id=c,host=h,port=7,localport=10'],
    ['-serial', 'udp:localhost:7@:9', 'udp:localhost:7@:10'],
    ['-monitor', 'mon:udp::7@[::1]:9,logfile=l', 'mon:udp::7@[::1]:10,logfile=l'],
    ['-spice', 'tls-port=5931,addr=::1', 'tls-port=5932,addr=::1'],
    ['-writeconfig', '/etc/vm.cfg', '/own/vm.cfg'],
    ['-machine', 'q35,dumpdtb=/d', 'q35,dumpdtb=/own/d'],
    ['-vnc', '127.0.0.1:2,password=on', '127.0.0.1:3,password=on'],
    ['-vnc', ':1,websocket=5700', ':2,websocket=5701'],
    ['-vnc', '127.0.0.1:1,websocket=0.0.0.0:5700', '127.0.0.1:2,websocket=0.0.0.0:5701'],
    ['-vnc', '127.0.0.1:1,websocket=[::]:5700', '127.0.0.1:2,websocket=[::]:5701'],
    ['-serial', 'unix:/a,server=on,path=/b', 'unix:/a,server=on,path=/own/b'],
    ['-serial', 'unix:/a,,x=1,server', 'unix:path=/own/a,,x=1,server=on'],
    ['-qmp', 'unix:path=/a,server=on,noserver,server', 'unix:/own/a,server=on,server=off,server=on'],
    ['-chardev', 'socket,id=c,path=/a,server=on,path=/b', 'socket,id=c,path=/a,server=on,path=/own/b'],
    ['-monitor', 'tcp::99,server=on,port=100', 'tcp::99,server=on,port=101'],
    ['-serial', 'tcp::99,server,nowait,logfile=/l', 'tcp::100,server=on,wait=off,logfile=/own/l'],
    ['-serial', 'file:/var/log/a,b', 'file:/own/a,b'],
    ['-display', 'vnc=unix:/v', 'vnc=unix:/own/v'],
    ['-spice', 'port=5930,disable-ticketing=on', 'port=5931,disable-ticketing=on'],
    ['-spice', 'unix=on,addr=/s.sock', 'unix=on,addr=/own/s.sock'],
    ['-device', 'vhost-vsock-pci,guest-cid=3,id=v', 'vhost-vsock-pci,guest-cid=4,id=v'],
    [
      '-device',
      '{"driver":"vhost-vsock-pci","guest-cid":3,"id":"v"}',
      '{"driver":"vhost-vsock-pci","guest-cid":4,"id":"v"}',
    ],
    ['-D', 'qemu.log', '/own/qemu.log'],
    ['-trace', 'x*,file=/t', 'x*,file=/own/t'],
    ['-object', 'filter-dump,id=f,netdev=n,file=/d', 'filter-dump,id=f,netdev=n,file=/own/d'],
    ['-audiodev', 'wav,id=a,path=/w', 'wav,id=a,path=/own/w'],
  ])('moves what QEMU takes for itself: %s %s', (name, before, after) => {
    const { args, moved } = moveAll(name, before);
    expect(args).toEqual([name, after]);
    expect(moved.length).toBeGreaterThan(0);
    expect(toArgv(relocate(parseCommandLine([name, before]), NOWHERE).options)).toEqual([name, before]);
  });

  it.each([
    ['-chardev', 'socket,id=c,path=/daemon.sock'],
    ['-serial', 'null'],
    ['-qmp', 'chardev:c'],
    ['-vnc', ':1,to=9'],
    ['-vnc', 'none'],
    ['-netdev', 'user,id=n,hostfwd=tcp::0-:22'],
    ['-netdev', 'tap,id=n,ifname=tap7'],
    ['-netdev', 'socket,id=n,mcast=230.0.0.1:1234,localaddr=127.0.0.1'],
    ['-netdev', 'socket,id=n,connect=:1234'],
    ['-netdev', 'stream,id=n,addr.type=inet,addr.host=h,addr.port=9'],
    ['-netdev', 'dgram,id=n,remote.type=inet,remote.host=230.0.0.1,remote.port=9'],
    ['-chardev', 'udp,id=c,host=h,port=7'],
    ['-serial', 'udp::7'],
    ['-vnc', 'viewer:5500,reverse=on'],
    ['-object', 'memory-backend-file,id=m,mem-path=/m,size=1G'],
    ['-drive', 'file=/disk.img,if=none,id=d'],
    ['-append', 'file=/x port=3'],
    ['-kernel', '/vmlinuz'],
  ])('leaves what it only uses: %s %s', (name, value) => {
    expect(moveAll(name, value)).toEqual({ args: [name, value], moved: [] });
  });

  it('says what was where, and where it is', () => {
    const { moved } = moveAll('-netdev', 'user,id=n,hostfwd=tcp:127.0.0.1:2222-:22', '-vnc', ':1', '-s');
    expect(moved).toEqual([
      { what: 'port', option: '-netdev', from: '127.0.0.1:2222', to: '127.0.0.1:2223' },
      { what: 'display', option: '-vnc', from: ':1', to: ':2' },
      { what: 'port', option: '-s', from: ':1234', to: ':1235' },
    ]);
    expect(moveAll('-s').args).toEqual(['-gdb', 'tcp::1235']);
  });
});
