/** What was changed in a VM while it ran comes back as it was, or is named: on tiny VMs, whose firmware is their guest. */
import { once } from 'node:events';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, expect, it } from 'vitest';
import type { Manifest } from '../../src/checkpoint/manifest.js';
import { findDrift } from '../../src/qemu/drift/drift.js';
import { keyOf, readSettings } from '../../src/qemu/drift/settings.js';
import { inspectVm } from '../../src/qemu/inspect.js';
import type { QmpClient } from '../../src/qemu/qmp.js';
import type { RestoreOptions } from '../../src/restore/attempt.js';
import { compareSettings } from '../../src/restore/settings.js';
import { save, type SaveOptions } from '../../src/save/save.js';
import { freePort } from '../../src/qemu/free-places.js';
import { qemuBinary, qemuProblem, type NewerQemu, type QemuChoice } from '../support/cache.js';
import { useOwnFolders, restoreSilently } from '../support/checkpointing.js';
import { killAndWait, killAtExit, spawnTracked } from '../support/processes.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { connectWhenReady, TINY } from './qemu-helper.js';

type Qmp = Pick<QmpClient, 'execute'>;
type Answer = Record<string, unknown>;

describeOnEachQemu('a change made at run time', (choice) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const file = (name: string) => path.join(dir, name);
  for (const name of ['disk.raw', 'a.iso', 'b.iso', 'f.img'])
    writeFileSync(file(name), Buffer.alloc(1 << 20));
  const socket = file('qmp.sock');
  const running = new Set<number>();
  afterEach(async () => {
    for (const pid of running) await killAndWait(pid);
    running.clear();
  });

  async function start(...args: string[]): Promise<void> {
    const log = file('log');
    const command = [qemuBinary(choice), ...TINY, ...args, '-qmp', `unix:${socket},server=on,wait=off`];
    const child = spawnTracked(command, log);
    running.add(child.pid);
    const ended = once(child, 'exit').then(() => Promise.reject(new Error(readFileSync(log, 'utf8'))));
    ended.catch(() => undefined);
    await (await Promise.race([connectWhenReady(socket), ended])).close();
  }

  async function ask<T>(question: (qmp: Qmp) => Promise<T>): Promise<T> {
    const qmp = await connectWhenReady(socket);
    try {
      return await question(qmp);
    } finally {
      await qmp.close();
    }
  }

  const hmp = (qmp: Qmp, command: string) =>
    qmp.execute('human-monitor-command', { 'command-line': command }) as Promise<string>;

  async function saved(options: Partial<SaveOptions> = {}): Promise<string> {
    const messages: string[] = [];
    await save({
      vm: `qmp:${socket}`,
      storeDir,
      name: 'vm',
      method: 'background-snapshot',
      quit: false,
      level: 1,
      disksExternal: true,
      onProgress: () => undefined,
      onMessage: (text) => messages.push(text),
      signal: new AbortController().signal,
      ...options,
    });
    return messages.join('\n');
  }

  async function restored(options: Partial<RestoreOptions> = {}): Promise<string> {
    for (const pid of running) await killAndWait(pid);
    running.clear();
    const messages: string[] = [];
    const report = await restoreSilently({
      storeDir,
      reference: 'vm',
      mode: 'lazy',
      qemuBinary: qemuBinary(choice),
      onMessage: (text) => messages.push(text),
      ...options,
    });
    killAtExit(report.qemuPid!);
    running.add(report.qemuPid!);
    return messages.join('\n');
  }

  it('is nothing of a VM that nobody has changed', async () => {
    await start(
      ...[
        '-netdev',
        `user,id=n0,hostfwd=tcp:127.0.0.1:${await freePort(ANY)}-:22`,
        '-device',
        'e1000,netdev=n0',
      ],
      ...['-nic', 'user,model=virtio-net-pci', '-cdrom', file('a.iso'), '-vnc', 'unix:vnc.sock'],
      ...['-gdb', `tcp::${await freePort(ANY)}`],
      ...[
        '-drive',
        `file=${file('disk.raw')},format=raw,if=virtio,throttling.bps-total=100000,throttling.group=g`,
      ],
      ...[
        '-blockdev',
        `driver=raw,node-name=r0,read-only=on,file.driver=file,file.filename=${file('b.iso')}`,
      ],
      ...[
        '-device',
        'virtio-blk-pci,drive=r0,id=blk,bootindex=3',
        '-chardev',
        'null,id=c0',
        '-serial',
        'null',
      ],
      ...['-chardev', 'null,id=c1,mux=on', '-serial', 'chardev:c1', '-mon', 'chardev=c1'],
      ...['-serial', `mon:unix:${file('console.sock')},server=on,wait=off`],
      ...['-object', 'iothread,id=io0', '-object', 'throttle-group,id=tg0,x-bps-total=100'],
      ...['-device', 'qemu-xhci', '-device', 'usb-tablet', '-smp', '2', '-device', 'virtio-balloon'],
    );
    expect(await saved()).toBe('');
    expect(await restored()).toBe('');
    // What is restored is saved and restored as well.
    expect(await saved()).toBe('');
  });

  it('of port forwards comes back: those that were closed stay closed, those that were opened are open', async () => {
    const [closed, kept, opened, unnamed] = [
      await freePort(ANY),
      await freePort(ANY),
      await freePort(ANY),
      await freePort(ANY),
    ];
    await start(
      ...['-netdev', `user,id=n0,hostfwd=tcp:127.0.0.1:${closed}-:22,hostfwd=tcp:127.0.0.1:${kept}-:23`],
      ...['-device', 'e1000,netdev=n0', '-nic', `user,hostfwd=udp::${unnamed}-:53`],
    );
    await ask(async (qmp) => {
      await hmp(qmp, `hostfwd_remove n0 tcp:127.0.0.1:${closed}`);
      await hmp(qmp, `hostfwd_add n0 tcp:127.0.0.1:${opened}-10.0.2.15:80`);
      const [, id] = /\((#net\d+)\)/.exec(await hmp(qmp, 'info usernet'))!;
      await hmp(qmp, `hostfwd_remove ${id} udp::${unnamed}`);
    });
    expect(await saved()).toBe('');
    expect(await restored()).toBe('');
    const ports = (await ask((qmp) => hmp(qmp, 'info usernet'))).matchAll(/HOST_FORWARD\] +\d+ +\S+ +(\d+)/g);
    expect(Array.from(ports, ([, port]) => Number(port)).sort()).toEqual([kept, opened].sort());
  });

  it('of media and images comes back', async () => {
    await start(
      ...[
        '-cdrom',
        file('a.iso'),
        '-drive',
        `if=none,id=cd,media=cdrom,file=${file('a.iso')}`,
        '-device',
        'ide-cd,drive=cd,id=cd0,bus=ide.3',
      ],
      ...[
        '-blockdev',
        `driver=file,node-name=m,read-only=on,filename=${file('a.iso')}`,
        '-device',
        'ide-cd,drive=m,id=cd1,bus=ide.4',
      ],
      ...['-drive', `file=${file('disk.raw')},format=raw,if=virtio`, '-fda', file('f.img')],
    );
    await ask(async (qmp) => {
      await qmp.execute('eject', { id: 'cd1', force: true });
      await qmp.execute('blockdev-change-medium', { id: 'cd0', filename: file('b.iso'), format: 'raw' });
      await hmp(qmp, 'eject -f ide2-cd0');
      await qmp.execute('blockdev-snapshot-sync', { device: 'virtio0', 'snapshot-file': file('top.qcow2') });
    });
    expect(await saved()).toBe('');
    expect(await restored()).toBe('');
    const drives = (await ask((qmp) => qmp.execute('query-block'))) as Answer[];
    const images = drives.map(({ device, qdev, inserted }) => [
      device || qdev,
      (inserted as Answer | undefined)?.['file'],
    ]);
    expect(Object.fromEntries(images)).toEqual({
      'ide2-cd0': undefined,
      cd: file('b.iso'),
      cd1: undefined,
      floppy0: file('f.img'),
      virtio0: file('top.qcow2'),
    });
  });

  it('of limits, thresholds, objects, devices and traces comes back', async () => {
    await start(
      ...['-drive', `file=${file('disk.raw')},format=raw,if=virtio,readonly=on,throttling.iops-total=77`],
      ...[
        '-blockdev',
        `driver=file,node-name=n0,read-only=on,filename=${file('a.iso')}`,
        '-device',
        'virtio-blk-pci,drive=n0,id=blk',
      ],
      ...['-object', 'iothread,id=io0', '-object', 'throttle-group,id=tg0', '-object', 'iothread,id=gone'],
      ...['-device', 'virtio-balloon,id=balloon', '-device', 'qemu-xhci', '-device', 'usb-tablet'],
      ...['-gdb', `tcp::${await freePort(ANY)}`],
      ...['-trace', 'qmp_job_pause'],
    );
    const none = { bps: 0, bps_rd: 0, bps_wr: 0, iops: 0, iops_rd: 0, iops_wr: 0 };
    await ask(async (qmp) => {
      await qmp.execute('block_set_io_throttle', { device: 'virtio0', ...none });
      await qmp.execute('block_set_io_throttle', {
        id: '/machine/peripheral/blk/virtio-backend',
        ...none,
        bps: 4096,
        group: 'together',
      });
      await qmp.execute('block-set-write-threshold', { 'node-name': 'n0', 'write-threshold': 4096 });
      await qmp.execute('qom-set', { path: '/objects/io0', property: 'poll-max-ns', value: 0 });
      await qmp.execute('qom-set', { path: '/objects/tg0', property: 'limits', value: { 'iops-total': 5 } });
      await qmp.execute('qom-set', {
        path: '/machine/peripheral/balloon',
        property: 'guest-stats-polling-interval',
        value: 9,
      });
      await qmp.execute('qom-set', { path: '/machine/peripheral/blk', property: 'bootindex', value: 4 });
      await qmp.execute('object-add', { 'qom-type': 'iothread', id: 'io1', 'poll-max-ns': 7 });
      await qmp.execute('object-del', { id: 'gone' });
      await qmp.execute('trace-event-set-state', { name: 'qmp_job_cancel', enable: true });
      await qmp.execute('trace-event-set-state', { name: 'qmp_job_pause', enable: false });
      await hmp(qmp, 'gdbserver none');
      await hmp(qmp, 'mouse_set 3');
    });
    const look = () =>
      ask(async (qmp) => ({
        throttles: ((await qmp.execute('query-block')) as Answer[]).map(({ inserted }) => {
          const { bps, iops, group } = inserted as Answer;
          return [bps, iops, group];
        }),
        thresholds: ((await qmp.execute('query-named-block-nodes')) as Answer[])
          .filter((node) => node['node-name'] === 'n0')
          .map((node) => node['write_threshold']),
        threads: ((await qmp.execute('query-iothreads')) as Answer[])
          .map((thread) => [thread['id'], thread['poll-max-ns']])
          .sort(),
        limits: await qmp.execute('qom-get', { path: '/objects/tg0', property: 'limits' }),
        interval: await qmp.execute('qom-get', {
          path: '/machine/peripheral/balloon',
          property: 'guest-stats-polling-interval',
        }),
        bootindex: await qmp.execute('qom-get', { path: '/machine/peripheral/blk', property: 'bootindex' }),
        traces: await qmp.execute('trace-event-get-state', { name: 'qmp_job_*' }),
        debugger: ((await qmp.execute('query-chardev')) as Answer[]).filter(({ label }) => label === 'gdb'),
        mouse: ((await qmp.execute('query-mice')) as Answer[]).find(({ current }) => current === true)?.[
          'name'
        ],
      }));
    const before = await look();
    expect(before).toMatchObject({
      threads: [
        ['io0', 0],
        ['io1', 7],
      ],
      thresholds: [4096],
      bootindex: 4,
      debugger: [],
    });
    expect(await saved()).toBe('');
    expect(await restored()).toBe('');
    expect(await look()).toEqual(before);
  });

  it('is not where a restore lets memory come in', async () => {
    const own = file('own');
    mkdirSync(own);
    const monitor = `socket,id=vmckpt-monitor,path=${own}/qmp.sock,server=on,wait=off`;
    await start('-incoming', 'defer', '-chardev', monitor, '-mon', 'chardev=vmckpt-monitor,mode=control');
    const qmp = await connectWhenReady(socket);
    await qmp.execute('migrate-incoming', { uri: `unix:${own}/migration.sock` });
    expect((await findDrift(qmp, await inspectVm(qmp))).unexplained).toEqual([]);
    await qmp.close();
  });

  it('of trace events is found, where the command line enables none', async () => {
    await start();
    const qmp = await connectWhenReady(socket);
    const enabled = () =>
      findDrift(qmp, vm).then(({ settings }) => settings.filter(({ kind }) => kind === 'trace'));
    const vm = await inspectVm(qmp);
    expect(await enabled()).toEqual([]);
    await qmp.execute('trace-event-set-state', { name: 'qmp_job_cancel', enable: true });
    const setting = { kind: 'trace', id: 'qmp_job_cancel', name: 'enabled', value: 'true', replay: true };
    expect(await enabled()).toEqual([setting]);
    await qmp.close();
  });

  it('of links comes back', async () => {
    const dump = (id: string) => file(`${id}.pcap`);
    const models = ['virtio-net-pci', 'e1000', 'vmxnet3', 'pcnet'];
    const ids = models.map((_, index) => `n${index}`);
    // The firmware asks for an address at every card: who has sent something was connected.
    await start(
      ...['-S', '-boot', 'n'],
      ...models.flatMap((model, index) => [
        ...['-netdev', `user,id=${ids[index]}`, '-device', `${model},netdev=${ids[index]},id=card-${model}`],
        ...['-object', `filter-dump,id=f${index},netdev=${ids[index]},file=${dump(ids[index]!)}`],
      ]),
    );
    await ask(async (qmp) => {
      for (const id of ids.slice(0, 3)) await qmp.execute('set_link', { name: id, up: false });
      await qmp.execute('cont');
    });
    expect(await saved()).toBe('');
    // It says where the dumps of the saved VM are now.
    expect(await restored()).not.toMatch(/Not in the checkpoint|Differs/);
    const sent = () => ids.map((id) => statSync(dump(id)).size > EMPTY_DUMP_BYTES);
    await until('a packet', () => sent()[3]);
    expect(sent()).toEqual([false, false, false, true]);
  });

  it('that cannot come back is named by a save, and refused by one after which the VM does not run on', async () => {
    const port = await freePort(ANY);
    await start(
      ...[
        '-netdev',
        'user,id=n0',
        '-object',
        'rng-builtin,id=rng',
        '-vnc',
        `unix:${file('vnc.sock')},password=on`,
      ],
      ...[
        '-drive',
        `file=${file('disk.raw')},format=raw,if=none,id=d,node-name=n`,
        '-device',
        'virtio-blk-pci,drive=d',
      ],
      ...[
        '-chardev',
        'null,id=used',
        '-serial',
        'chardev:used',
        '-netdev',
        'user,id=n1',
        '-device',
        'ne2k_pci,netdev=n1,id=nic1',
      ],
    );
    await ask(async (qmp) => {
      await qmp.execute('object-add', { 'qom-type': 'secret', id: 'late', data: 'x' });
      await qmp.execute('chardev-add', { id: 'c9', backend: { type: 'null', data: {} } });
      await qmp.execute('blockdev-add', { driver: 'null-co', 'node-name': 'b9', 'read-only': true });
      await qmp.execute('block-dirty-bitmap-add', { node: 'n', name: 'since' });
      const addr = { type: 'inet', data: { host: '127.0.0.1', port: String(port) } };
      await qmp.execute('nbd-server-start', { addr });
      await qmp.execute('block-export-add', { type: 'nbd', id: 'e9', 'node-name': 'b9' });
      await qmp.execute('object-add', { 'qom-type': 'memory-backend-ram', id: 'hot', size: 1 << 20 });
      await qmp.execute('netdev_del', { id: 'n1' });
      await hmp(qmp, 'gdbserver unix:gdb.sock,server=on,wait=off');
    });
    const lost = [
      'dirty bitmap "since" of the node n',
      'nbd export "e9" of the node b9',
      'character device "c9" was added',
      'object "late" was added',
      'block node "b9" was added',
      'back-end "n1" was removed',
      'memory "hot" was added',
      'debugger was let in',
      `TCP port ${port}`,
    ];
    await expect(saved({ method: 'stopped' })).rejects.toMatchObject({ code: 'MIGRATION_BLOCKED' });
    const said = await saved();
    const unreadable = ['password of the VNC display', 'link of nic1 (ne2k_pci)'];
    for (const part of [...lost, ...unreadable]) expect(said).toContain(part);
    expect(said).not.toMatch(/"(rng|used|n0|n)" was/);
    const told = await restored();
    // Each once, and nothing else: not also as what is missing, or was not there.
    for (const part of [...lost, ...unreadable]) expect(told.split(part)).toHaveLength(2);
    expect(told).not.toContain('Differs from the saved VM');
    expect(await ask((qmp) => qmp.execute('query-status'))).toMatchObject({ running: true });
  });

  it('of devices and back-ends is known by marks of QEMU’s own, and not by their names', async () => {
    await start(
      ...['-device', 'qemu-xhci,id=xhci', '-device', 'usb-kbd,id=kb', '-device', 'usb-tablet'],
      ...['-drive', 'if=none,id=d1', '-drive', 'if=none,id=d2', '-device', 'ide-cd,drive=d1,id=cd'],
      ...['-netdev', 'user,id=n1', '-device', 'e1000,netdev=n1', '-netdev', 'user,id=n2', '-nic', 'user'],
    );
    await expect(saved({ method: 'stopped' })).resolves.toBe('');
    await ask(async (qmp) => {
      await qmp.execute('cont');
      for (const id of ['kb', '/machine/peripheral-anon/device[0]']) {
        await qmp.execute('device_del', { id });
        await qmp.execute('device_add', { driver: 'usb-mouse', ...(id === 'kb' && { id }) });
      }
      await qmp.execute('netdev_del', { id: 'n1' });
      await qmp.execute('netdev_add', { type: 'user', id: 'n1', net: '10.9.0.0/24' });
    });
    const parts = [
      ...['the device "kb" (usb-mouse) was plugged in', 'a device without an id (usb-mouse) was'],
      'the network back-end "n1" was removed and added again',
    ];
    const refused = { code: 'COMMAND_LINE_UNSUPPORTED', exitCode: 14 };
    await expect(saved({ method: 'stopped' })).rejects.toMatchObject(refused);
    const said = await saved();
    for (const part of parts) expect(said.split(part)).toHaveLength(2);
    await expect(restored()).rejects.toMatchObject(refused);
  });

  it('behind the name of another part is named, too', async () => {
    for (const name of ['r1', 'r2', 'r3']) writeFileSync(file(name), Buffer.alloc(1 << 20));
    const raw = (name: string, node: string) => ({
      driver: 'raw',
      'node-name': node,
      'read-only': true,
      file: { driver: 'file', filename: file(name) },
    });
    const args = [
      ...['-chardev', `socket,id=c1,path=${file('c1')},server=on,wait=off`, '-chardev', 'null,id=c2'],
      ...['-chardev', `socket,id=c3,path=${file('c3')},server=on,wait=off`, '-chardev', 'ringbuf,id=c4'],
      ...['-chardev', 'udp,id=c5,host=127.0.0.1,port=9'],
      ...['-serial', 'null', '-serial', 'chardev:c2', '-netdev', 'user,id=n1', '-netdev', 'user,id=n2'],
      ...['-device', 'e1000,netdev=n1', '-device', 'e1000,netdev=n2', '-netdev', 'user,id=n3'],
      ...['-blockdev', JSON.stringify(raw('r1', 'b1')), '-blockdev', JSON.stringify(raw('r2', 'b2'))],
      ...[
        '-blockdev',
        `driver=raw,node-name=b3,read-only=on,size=65536,file.driver=file,file.filename=${file('r3')}`,
      ],
      ...['-object', 'secret,id=s1,data=first', '-object', 'secret,id=s2,data=same'],
      ...['-object', 'rng-random,id=r1,filename=/dev/urandom', '-object', 'rng-builtin,id=r2'],
    ];
    await start(...args);
    expect(await saved({ method: 'stopped' })).toBe('');
    await ask(async (qmp) => {
      await qmp.execute('cont');
      const toFile = { type: 'file', data: { out: file('out') } };
      for (const id of ['c1', 'serial0']) await qmp.execute('chardev-change', { id, backend: toFile });
      await qmp.execute('blockdev-del', { 'node-name': 'b1' });
      await qmp.execute('blockdev-add', raw('r3', 'b1'));
      await qmp.execute('blockdev-reopen', { options: [{ ...raw('r2', 'b2'), size: 4096 }] });
      await qmp.execute('object-del', { id: 's1' });
      await qmp.execute('object-add', { 'qom-type': 'secret', id: 's1', data: 'second' });
      await qmp.execute('object-del', { id: 'r1' });
      await qmp.execute('object-add', { 'qom-type': 'rng-random', id: 'r1', filename: '/dev/random' });
      await qmp.execute('object-del', { id: 'r2' });
      await qmp.execute('object-add', { 'qom-type': 'iothread', id: 'r2' });
    });
    const parts = [
      ...['character device "c1" leads to file', 'character device "serial0" leads to file'],
      `block node "b1" is ${file('r3')} now`,
      ...[
        'block node "b2" has a size of 4096',
        'object "s1" has another data',
        'object "r1" has another filename',
      ],
      'object "r2" is of the type "iothread"',
    ];
    await expect(saved({ method: 'stopped' })).rejects.toMatchObject({ code: 'MIGRATION_BLOCKED' });
    const said = await saved();
    for (const part of parts) expect(said).toContain(part);
    expect(said).not.toMatch(/"(c2|c3|c4|serial1|n1|n2|n3|b3|s2)"|second/);
    const told = await restored();
    for (const part of parts) expect(told.split(part)).toHaveLength(2);
    expect(told).not.toContain('Differs from the saved VM');
  });

  it.each(newerThan(choice))(
    'is no default of QEMU %s, which may differ, and comes along to it',
    async (newer) => {
      await start(
        ...['-object', 'iothread,id=io0', '-object', 'iothread,id=io1,poll-grow=0,poll-max-ns=5'],
        ...['-object', 'throttle-group,id=tg0', '-object', 'rng-builtin,id=rng', '-object', 'can-bus,id=can'],
        ...['-object', 'rng-random,id=rr,filename=/dev/urandom', '-object', 'authz-simple,id=az,identity=x'],
        ...[
          '-object',
          'cryptodev-backend-builtin,id=cb',
          '-netdev',
          'user,id=n0',
          '-device',
          'e1000,netdev=n0',
        ],
        ...['-object', 'filter-buffer,id=fb,netdev=n0,interval=1000', '-device', 'virtio-balloon,id=b'],
        ...['-device', 'virtio-rng-pci,rng=rng', '-drive', `file=${file('disk.raw')},format=raw,if=virtio`],
      );
      expect(await saved()).toBe('');
      expect(await restored({ qemuBinary: qemuBinary(newer) })).toBe('');
      for (const pid of running) await killAndWait(pid);
      await start('-object', 'iothread,id=io0', '-object', 'iothread,id=io1');
      const set = (property: string, value: number) =>
        ask((qmp) => qmp.execute('qom-set', { path: '/objects/io1', property, value }));
      await set('poll-max-ns', 0);
      await set('poll-grow', 7);
      expect(await saved()).toBe('');
      expect(await restored({ qemuBinary: qemuBinary(newer) })).toBe('');
      const threads = (await ask((qmp) => qmp.execute('query-iothreads'))) as Answer[];
      expect(threads.find(({ id }) => id === 'io1')).toMatchObject({ 'poll-max-ns': 0, 'poll-grow': 7 });
    },
  );

  it('is named where QEMU takes other values, and not this one', async () => {
    await start('-object', 'iothread,id=io0', '-object', 'rng-random,id=rr,filename=/dev/urandom');
    const settings = [
      { kind: 'object', id: 'io0', name: 'poll-max-ns', value: '-1' },
      { kind: 'object', id: 'rr', name: 'opened', value: 'false' },
    ];
    const told: string[] = [];
    const qmp = await connectWhenReady(socket);
    const there = await readSettings(qmp);
    const kept = there.filter((now) => !settings.some((own) => keyOf(own) === keyOf(now)));
    await compareSettings(qmp, {
      manifest: { settings: [...kept, ...settings] } as unknown as Manifest,
      options: { qemuArgs: undefined, onMessage: (text) => told.push(text) },
      plan: { moved: [] },
    });
    await qmp.close();
    expect(told).toEqual([
      expect.stringMatching(
        /^Differs from the saved VM: poll-max-ns of the object "io0" was -1 and is \d+\.$/,
      ),
    ]);
  });

  it('comes along to a clone, whose ports and sockets are its own', async () => {
    const port = await freePort(ANY);
    await start(
      ...[
        '-netdev',
        `user,id=n0,hostfwd=tcp:127.0.0.1:${port}-:22`,
        '-device',
        'e1000,netdev=n0',
        '-object',
        'iothread,id=io0',
      ],
      ...[
        '-blockdev',
        `driver=file,node-name=n0,read-only=on,filename=${file('a.iso')}`,
        '-device',
        'virtio-blk-pci,drive=n0',
      ],
    );
    await ask(async (qmp) => {
      await hmp(qmp, `hostfwd_remove n0 tcp:127.0.0.1:${port}`);
      await qmp.execute('qom-set', { path: '/objects/io0', property: 'poll-max-ns', value: 0 });
    });
    expect(await saved()).toBe('');
    expect(await restored({ vmName: 'clone', identity: 'clone', mode: 'eager' })).toBe('');
  });
});

/** Those that are here. */
function newerThan(choice: QemuChoice): NewerQemu[] {
  const newer = choice === 'system' ? (['10', '11'] as const) : (['11'] as const);
  return newer.filter((each) => qemuProblem(each) === undefined);
}

const ANY = { protocol: 'tcp', host: '127.0.0.1', port: 1, lowest: 1 } as const;
const EMPTY_DUMP_BYTES = 24;
