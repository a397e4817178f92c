import { describe, expect, it } from 'vitest';
import { rewriteForRestore } from '../../../src/qemu/restore-command-line.js';

const SOCKETS = {
  monitorSocket: '/run/vmckpt/a/qmp.sock',
  consoleSocket: '/run/vmckpt/a/console.sock',
  paused: false,
};
const ADDED = [
  '-chardev',
  'socket,id=vmckpt-monitor,path=/run/vmckpt/a/qmp.sock,server=on,wait=off',
  '-mon',
  'chardev=vmckpt-monitor,mode=control',
  '-incoming',
  'defer',
];
const CONSOLE = 'unix:/run/vmckpt/a/console.sock,server=on,wait=off';

function rewrite(...argv: string[]): string[] {
  const { args } = rewriteForRestore(argv, SOCKETS);
  expect(args.slice(-ADDED.length)).toEqual(ADDED);
  return args.slice(0, -ADDED.length);
}

describe('rewriteForRestore', () => {
  it('drops what belongs to one run and keeps the rest in its order', () => {
    const kept = [
      '-machine',
      'q35',
      '-m',
      '64',
      '-device',
      'virtio-rng-pci',
      '-append',
      'a fd=3',
      '-pidfile',
      'p',
    ];
    const dropped = ['-incoming', 'tcp:0:1', '-daemonize', '-loadvm', 's', '-S'];
    expect(rewrite(...kept, ...dropped)).toEqual(kept);
    expect(rewriteForRestore([...kept, ...dropped], SOCKETS).notes).toEqual([]);
  });

  it('says where goes what went to the terminal of the old process', () => {
    const { notes } = rewriteForRestore(['-serial', 'file:/dev/stdout', '-D', '/dev/stderr'], SOCKETS);
    expect(notes).toEqual([
      "-serial file:/dev/stdout now goes to QEMU's log: vmckpt logs shows it.",
      "-D /dev/stderr now goes to QEMU's log: vmckpt logs shows it.",
    ]);
  });

  it('adds a monitor of its own, deferred incoming, and -S when the VM is to stay paused', () => {
    expect(rewriteForRestore([], { ...SOCKETS, paused: true }).args).toEqual([...ADDED, '-S']);
  });

  it('pins the machine type that an alias or a default stood for', () => {
    const pin = (...argv: string[]): readonly string[] =>
      rewriteForRestore(argv, { ...SOCKETS, machineType: 'pc-q35-7.2' }).args;
    expect(pin('-M', 'q35,usb=off').slice(0, 2)).toEqual(['-M', 'pc-q35-7.2,usb=off']);
    expect(pin('-machine', 'accel=tcg').slice(0, 4)).toEqual([
      '-machine',
      'accel=tcg',
      '-machine',
      'type=pc-q35-7.2',
    ]);
    for (const other of ['pc', 'pc-q35-8.0', 'virt']) expect(pin('-M', other)[1]).toBe(other);
  });

  it.each([
    'vmgenid',
    'vmgenid,guid=auto,id=g',
    'vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87',
    '{"driver":"vmgenid","guid":"324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"}',
  ])('gives every restore a VM generation id of its own: -device %s', (device) => {
    const [first, second] = [rewrite('-device', device), rewrite('-device', device)];
    for (const [, rewritten] of [first, second])
      expect(rewritten).toMatch(/^vmgenid,(.*,)?guid=(?!324e6eaf)[0-9a-f-]{36}(,|$)/);
    expect(first).not.toEqual(second);
  });

  it("leaves the user's own QMP socket alone and names it", () => {
    const short = ['-qmp', 'unix:/tmp/q.sock,server=on,wait=off'];
    expect(rewriteForRestore(short, SOCKETS)).toMatchObject({ userQmpSocket: '/tmp/q.sock', notes: [] });
    expect(rewrite(...short)).toEqual(short);
    const long = ['-chardev', 'socket,id=c,path=/tmp/r,server=on,wait=off', '-mon', 'c,mode=control'];
    expect(rewriteForRestore(long, SOCKETS).userQmpSocket).toBe('/tmp/r');
  });

  it('keeps listening sockets from waiting for a client, which is their default', () => {
    expect(rewrite('-qmp', 'unix:/tmp/q,server')).toEqual(['-qmp', 'unix:/tmp/q,server,wait=off']);
    expect(rewrite('-serial', 'tcp::5555,server,wait,nodelay')).toEqual([
      '-serial',
      'tcp::5555,server,nodelay,wait=off',
    ]);
    expect(rewrite('-chardev', 'socket,id=c,path=/p,server=on')).toEqual([
      '-chardev',
      'socket,id=c,path=/p,server=on,wait=off',
    ]);
    expect(rewrite('-qmp', 'unix:/tmp/q,server,nowait')).toEqual(['-qmp', 'unix:/tmp/q,server,nowait']);
  });

  it.each([
    [
      ['-serial', 'stdio'],
      ['-serial', CONSOLE],
    ],
    [
      ['-serial', 'mon:stdio'],
      ['-serial', `mon:${CONSOLE}`],
    ],
    [
      ['-monitor', 'stdio'],
      ['-monitor', CONSOLE],
    ],
    [
      ['-qmp', 'stdio'],
      ['-qmp', CONSOLE],
    ],
    [
      ['-chardev', 'stdio,id=c,mux=on,signal=off'],
      ['-chardev', 'socket,id=c,mux=on,path=/run/vmckpt/a/console.sock,server=on,wait=off'],
    ],
    [['-nographic'], ['-nographic', '-serial', `mon:${CONSOLE}`]],
    [
      ['-nographic', '-serial', 'null'],
      ['-nographic', '-serial', 'null', '-monitor', CONSOLE],
    ],
    [
      ['-nographic', '-monitor', 'none'],
      ['-nographic', '-monitor', 'none', '-serial', CONSOLE],
    ],
    [
      ['-nographic', '-device', 'isa-serial,chardev=x', '-qmp', 'none'],
      ['-nographic', '-device', 'isa-serial,chardev=x', '-qmp', 'none'],
    ],
    [
      ['-nographic', '-nodefaults'],
      ['-nographic', '-nodefaults'],
    ],
    [
      ['-display', 'curses'],
      ['-display', 'none'],
    ],
  ])('moves what was on the terminal to a socket: %j', (argv, expected) => {
    expect(rewrite(...argv)).toEqual(expected);
  });

  it("knows the console of an earlier restore from a clone's own socket of that name", () => {
    const consoleAt = (path: string) => `socket,id=c,path=${path},server=on,wait=off`;
    const [earlier, own] = ['/run/vmckpt/vms/b/console.sock', '/run/vmckpt/vms/b/own/console.sock'];
    expect(rewrite('-chardev', consoleAt(earlier))).toEqual(['-chardev', consoleAt(SOCKETS.consoleSocket)]);
    expect(rewrite('-chardev', consoleAt(own))).toEqual(['-chardev', consoleAt(own)]);
  });

  it('says once where a console is that many use, and at its next restore only where it has moved', () => {
    const users = ['-serial', 'chardev:c', '-device', 'virtconsole,chardev=c', '-mon', 'chardev=c'];
    const command = ['-nographic', '-chardev', 'stdio,mux=on,id=c', ...users];
    const { args, notes } = rewriteForRestore(command, SOCKETS);
    expect(notes).toEqual([
      '-chardev stdio,mux=on,id=c is no longer on a terminal: it is now the unix socket /run/vmckpt/a/console.sock.',
    ]);
    expect(rewriteForRestore(args, SOCKETS)).toMatchObject({ args, notes: [] });
    const clone = rewriteForRestore(args, { ...SOCKETS, consoleSocket: '/run/vmckpt/b/console.sock' });
    expect(clone.notes).toEqual([
      expect.stringMatching(/^-chardev socket,\S+ is now the unix socket \/run\/vmckpt\/b\/console\.sock\.$/),
    ]);
  });

  it('says where the console is now, and only then', () => {
    const moved = rewriteForRestore(['-nographic'], SOCKETS);
    expect(moved.consoleSocket).toBe(SOCKETS.consoleSocket);
    expect(moved.notes.join()).toContain(SOCKETS.consoleSocket);
    expect(rewriteForRestore(['-serial', 'null'], SOCKETS).consoleSocket).toBeUndefined();
  });
});
