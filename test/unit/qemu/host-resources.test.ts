import { describe, expect, it } from 'vitest';
import { collisionCandidates } from '../../../src/qemu/host-resources.js';

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

  it('finds displays, taps, vsock ids and pid files', () => {
    expect(resources('-vnc', '127.0.0.1:2')).toEqual([
      { kind: 'port', protocol: 'tcp', host: '127.0.0.1', port: 5902 },
    ]);
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
