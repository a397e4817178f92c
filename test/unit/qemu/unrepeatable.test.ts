import { describe, expect, it } from 'vitest';
import { parseCommandLine } from '../../../src/qemu/command-line.js';
import { unrepeatableOptions } from '../../../src/qemu/unrepeatable.js';

const found = (...argv: string[]) => unrepeatableOptions(parseCommandLine(argv));

describe('unrepeatableOptions', () => {
  it.each([
    ['-add-fd', 'fd=3,set=1'],
    ['-readconfig', 'vm.cfg'],
    ['-chroot', '/srv/jail'],
    ['-run-with', 'chroot=/srv/jail'],
    ['-netdev', 'tap,id=n,fd=33'],
    ['-netdev', '{"type":"tap","fds":"3:4","id":"n"}'],
    ['-netdev', 'tap,id=n,ifname=t,vhostfd=3'],
    ['-netdev', 'tap,id=n,ifname=t,vhostfds=3:4'],
    ['-netdev', 'stream,id=n,addr.type=fd,addr.str=3'],
    ['-chardev', 'socket,id=c,fd=4,server=on'],
    ['-fsdev', 'proxy,id=f,sock_fd=3'],
    ['-drive', 'file=/dev/fdset/1'],
    ['-drive', 'file=file:/proc/self/fd/5,readonly=on'],
    ['-drive', 'file=json:{"driver":"file","filename":"/dev/fd/5"}'],
    ['-blockdev', '{"driver":"file","filename":"/proc/thread-self/fd/9","node-name":"d"}'],
    ['-object', 'memory-backend-file,id=m,size=64M,mem-path=/proc/1234/fd/7'],
    ['-object', 'memory-backend-file,id=m,size=64M,mem-path=/proc/1234/task/1235/fd/7'],
    ['-kernel', '/dev/fd/63'],
    ['-serial', 'file:/proc/self/fd/4'],
    ['-fw_cfg', 'name=opt/x,file=/dev/fd/4'],
    ['-smbios', 'file=/proc/self/fd/4'],
    ['-serial', 'file://proc//self/fd/4'],
    ['-fw_cfg', 'name=opt/x,file=/proc/self/./fd/4'],
    ['-drive', 'file=/dev/.//./fd/5'],
    ['-qmp', 'fd:3'],
  ])('names what another process cannot repeat: %s %s', (name, value) => {
    expect(found(name, value)).toEqual([expect.stringContaining(`${name} ${value} `)]);
  });

  it('names a descriptor that was given once, and not what uses it', () => {
    const added = ['-add-fd', 'fd=3,set=1'];
    expect(found(...added, '-drive', 'file=/dev/fdset/1,if=none')).toHaveLength(1);
    expect(found(...added, '-drive', 'file=/dev/fdset/12')).toHaveLength(2);
    expect(found(...added, '-chardev', 'file,id=c,path=/dev/fdset/1,fd=7')).toHaveLength(2);
  });

  it.each([
    ['-append', 'root=/dev/fd/3 fd=3'],
    ['-fw_cfg', 'name=opt/x,string=/dev/fd/4'],
    ['-drive', 'file=/srv/dev/fd/disk.img'],
    ['-drive', 'file=/srv/proc/self/fd/disk.img'],
    ['-device', 'floppy,drive=fd0'],
    ['-bios', 'OVMF.fd'],
    ['-pflash', '/usr/share/OVMF/vars.fd'],
    ['-serial', 'file:console.fd'],
    ['-pidfile', 'vm.fd'],
    ['-name', 'guest=fd'],
    ['-run-with', 'async-teardown=on'],
  ])('leaves alone what only looks like it: %s %s', (name, value) => {
    expect(found(name, value)).toEqual([]);
  });
});
