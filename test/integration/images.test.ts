/** Disks that QEMU shows in other words than its command line are accounted for, and exchanged ones are not. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { changedParts } from '../../src/qemu/changed-parts.js';
import { inspectVm } from '../../src/qemu/inspect.js';
import { qemuBinary } from '../support/cache.js';
import { isListening, killAndWait, spawnTracked } from '../support/processes.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { connectWhenReady, TINY } from './qemu-helper.js';

const json = (value: object) => JSON.stringify(value);
const commas = (text: string) => text.replaceAll(',', ',,');

describeOnEachQemu('a disk', (choice) => {
  const dir = suiteDirectory();
  const [raw, socket] = [path.join(dir, 'disk.raw'), path.join(dir, 'nbd.sock')];

  beforeAll(async () => {
    for (const name of ['disk.raw', 'other.raw']) writeFileSync(path.join(dir, name), Buffer.alloc(1 << 20));
    symlinkSync('disk.raw', path.join(dir, 'link.raw'));
    for (const name of ['a', 'b'])
      execFileSync('qemu-img', [
        'create',
        '-q',
        '-f',
        'qcow2',
        '-b',
        raw,
        '-F',
        'raw',
        path.join(dir, `${name}.qcow2`),
      ]);
    const serve = ['qemu-nbd', '--read-only', '--persistent', '--shared=64', '--format=raw'];
    spawnTracked([...serve, `--socket=${socket}`, '--export-name=data', raw], '/dev/null');
    await until(socket, () => isListening(socket));
  });

  async function start(...args: string[]) {
    const [qmpSocket, log] = [path.join(dir, 'qmp.sock'), path.join(dir, 'log')];
    const child = spawnTracked(
      [
        'env',
        '-C',
        dir,
        qemuBinary(choice),
        ...TINY,
        ...args,
        '-qmp',
        `unix:${qmpSocket},server=on,wait=off`,
      ],
      log,
    );
    const ended = once(child, 'exit').then(() => Promise.reject(new Error(readFileSync(log, 'utf8'))));
    const qmp = await Promise.race([connectWhenReady(qmpSocket), ended]);
    ended.catch(() => undefined);
    const changes = async () => changedParts(await inspectVm(qmp));
    return { qmp, changes, end: () => qmp.close().then(() => killAndWait(child.pid)) };
  }

  it('may be spelled in many ways', async () => {
    const images = [
      raw,
      `disk.raw,format=raw`,
      `../${path.basename(dir)}/disk.raw,format=raw`,
      `link.raw,format=raw`,
      `file:disk.raw,format=raw`,
      `json:${commas(json({ driver: 'raw', file: { driver: 'file', filename: 'disk.raw' } }))}`,
      `json:${commas(json({ driver: 'raw', offset: 512, file: { driver: 'file', filename: raw } }))}`,
      'disk.raw,format=raw,offset=512',
      `nbd:unix:${socket}:exportname=data,format=raw`,
      `nbd+unix:///data?socket=${socket},format=raw`,
      'null-co://,format=raw,size=1048576',
      'blkdebug::disk.raw,format=raw',
    ].map((image) => `file=${image}`);
    const trees = [
      'driver=raw,file.driver=file,file.filename=disk.raw',
      `driver=raw,file.driver=nbd,file.path=${socket},file.export=data`,
      `driver=nbd,server.type=unix,server.path=${socket},export=data`,
      'driver=qcow2,file.filename=a.qcow2',
      'driver=null-co,size=1M',
      'driver=throttle,throttle-group=g,file.driver=raw,file.file.driver=file,file.file.filename=disk.raw',
    ];
    const nodes = [
      json({
        driver: 'raw',
        'node-name': 'n1',
        'read-only': true,
        file: { driver: 'file', filename: 'disk.raw' },
      }),
      `driver=nbd,node-name=n2,read-only=on,server.type=unix,server.path=${socket},export=data`,
      `driver=file,node-name=bottom,read-only=on,filename=${raw}`,
      'driver=throttle,node-name=n3,read-only=on,throttle-group=g,file=bottom',
      'driver=null-co,node-name=n4,read-only=on,size=1048576',
    ];
    const { changes, end } = await start(
      ...['-object', 'throttle-group,id=g'],
      ...[...images, ...trees].flatMap((drive, index) => [
        '-drive',
        `${drive},id=d${index},if=none,readonly=on`,
      ]),
      ...nodes.flatMap((node) => ['-blockdev', node]),
      ...[1, 2, 3, 4].flatMap((number) => ['-device', `virtio-blk-pci,drive=n${number}`]),
      ...['-drive', 'file=disk.raw,format=raw,if=virtio,readonly=on'],
    );
    expect(await changes()).toEqual([]);
    await end();
  });

  it.each([
    ['-hda', 'a.qcow2', '-cdrom', 'disk.raw'],
    ['-drive', 'file=a.qcow2,if=virtio', '-fda', 'disk.raw', '-snapshot'],
  ])('may be given as %s %s', async (...args) => {
    const { changes, end } = await start(...args);
    expect(await changes()).toEqual([]);
    await end();
  });

  it('that is another one now is named, also behind the same node name and as a tree of options', async () => {
    const tree = (filename: string) => ({ driver: 'raw', offset: 512, file: { driver: 'file', filename } });
    const cd = ['-device', 'ide-cd,id=cd'];
    const { qmp, changes, end } = await start(
      '-blockdev',
      json({ 'node-name': 'n', 'read-only': true, ...tree(raw) }),
      ...cd,
    );
    await qmp.execute('blockdev-del', { 'node-name': 'n' });
    const other = { 'node-name': 'n', 'read-only': true, ...tree(path.join(dir, 'other.raw')) };
    await qmp.execute('blockdev-add', other);
    await qmp.execute('blockdev-open-tray', { id: 'cd' });
    await qmp.execute('blockdev-insert-medium', { id: 'cd', 'node-name': 'n' });
    expect(await changes()).toEqual([expect.stringMatching(/the image \/.*\/other\.raw, which is not/)]);
    await end();
  });
});
