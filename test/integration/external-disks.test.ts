/** Memory fits a disk as it was at the save: one that was written to since is refused by name, and no other is asked about. */
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { RestoreOptions } from '../../src/restore/attempt.js';
import type { SaveOptions } from '../../src/save/save.js';
import { PACKAGE_ROOT } from '../../src/util/package-paths.js';
import { restoreSilently } from '../support/checkpointing.js';
import { qemuBinary, type QemuChoice } from '../support/cache.js';
import { startCli } from '../support/command.js';
import { killAndWait, killAtExit } from '../support/processes.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, describeOnQemu11, suiteDirectory } from '../support/vitest.js';
import { bootImage, WRITE_COUNT } from '../support/boot-sectors.js';
import { startTinyVm, type TinyVm } from '../support/tiny-vm.js';

/** Options of qemu-img, and whether QEMU writes to it whenever a VM runs, be it that the guest does not. */
const IMAGES = {
  raw: { format: 'raw', runsWrite: false },
  qcow2: { format: 'qcow2', runsWrite: false },
  'qcow2 with an external data file': { format: 'qcow2', option: 'data_file=DIR/data', runsWrite: false },
  'qcow2 with lazy refcounts': { format: 'qcow2', option: 'lazy_refcounts=on', runsWrite: false },
  'qcow2 with a dirty bitmap': { format: 'qcow2', bitmap: 'b', runsWrite: true },
} as const;
type ImageKind = keyof typeof IMAGES;
const KINDS = Object.keys(IMAGES) as ImageKind[];

const TIME = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} UTC`;

function suite(qemu: QemuChoice): void {
  /** QEMU 7.2 loses memory in pre-copy. */
  const METHODS = ['background-snapshot', ...(qemu === 'system' ? [] : (['precopy'] as const))] as const;
  const top = suiteDirectory();
  let dir: string;
  let storeDir: string;
  const restored: number[] = [];
  const disk = () => path.join(dir, 'disk');
  const inDir = (program: string, ...args: string[]) => execFileSync(program, args, { cwd: dir });

  beforeEach(({ task }) => {
    dir = path.join(top, task.id.replaceAll(/\W/g, '-').slice(-24));
    storeDir = path.join(dir, 'store');
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
    execFileSync('mkdir', ['-p', dir]);
  });
  afterEach(async () => {
    for (const pid of restored.splice(0)) await killAndWait(pid);
  });

  /** Its guest has written to its disk, and goes on to. */
  async function start(does: 'writeOnce' | 'writeOn', kind: ImageKind = 'raw'): Promise<TinyVm> {
    const image = IMAGES[kind];
    const { format } = image;
    const options = 'option' in image ? ['-o', image.option.replace('DIR', dir)] : [];
    inDir('qemu-img', 'convert', '-f', 'raw', '-O', format, ...options, bootImage(dir, does), 'disk');
    if ('bitmap' in image) inDir('qemu-img', 'bitmap', '--add', 'disk', image.bitmap);
    const vm = startTinyVm({ qemu, dir, args: ['-drive', `if=virtio,format=${format},file=${disk()}`] });
    await vm.untilMemory(WRITE_COUNT);
    return vm;
  }

  const PUT_AWAY = { method: 'stopped', quit: true } as const;
  const save = (vm: TinyVm, options: Partial<SaveOptions>) =>
    vm.save({ storeDir, name: 'tiny', disksExternal: true, ...options });

  async function restoreTiny(options: Partial<RestoreOptions> = {}): Promise<number> {
    const { qemuPid } = await restoreSilently({
      storeDir,
      reference: 'tiny',
      qemuBinary: qemuBinary(qemu),
      ...options,
    });
    killAtExit(qemuPid!);
    restored.push(qemuPid!);
    return qemuPid!;
  }

  const restoreAndEnd = async (options?: Partial<RestoreOptions>) => killAndWait(await restoreTiny(options));

  const write = (file = disk(), format = 'raw') =>
    inDir('qemu-io', '-f', format, '-c', 'write -P 0x55 512k 64k', file);

  const refusal = (file: string) => ({
    code: 'DISKS_CHANGED',
    message: expect.stringMatching(
      new RegExp(`tiny@1 was saved: ${file} was last written at ${TIME}, and at ${TIME} when`),
    ) as string,
    hint: expect.stringContaining('--disks-as-saved') as string,
  });

  it.each(KINDS)('%s: a VM that was put away comes back until its disk is written to', async (kind) => {
    const { format, runsWrite } = IMAGES[kind];
    await save(await start('writeOnce', kind), PUT_AWAY);
    await restoreAndEnd();
    if (!runsWrite) await restoreAndEnd();
    write(disk(), format);
    const written = kind.includes('data file') ? path.join(dir, 'data') : disk();
    await expect(restoreTiny()).rejects.toMatchObject(refusal(written));
    await expect(restoreTiny({ vmName: 'copy', identity: 'clone' })).rejects.toMatchObject(refusal(written));
    await restoreAndEnd({ disksAsSaved: true });
  });

  // With lazy refcounts QEMU repairs an image of which the last QEMU was killed.
  it.each(['raw', 'qcow2', 'qcow2 with an external data file'] as const)(
    '%s: a VM that was saved live comes back when its guest has written nothing since',
    async (kind) => {
      const vm = await start('writeOnce', kind);
      // Not flushed yet: QEMU does that at the instant.
      const line = 'qemu-io virtio0 "write -P 7 768k 64k"';
      await vm.ask(['human-monitor-command', { 'command-line': line }]);
      for (const method of [...METHODS, 'stopped'] as const) await save(vm, { method });
      await vm.end();
      for (const generation of [...METHODS, 'stopped'].keys())
        await restoreAndEnd({ reference: `tiny@${generation + 1}` });
    },
  );

  it.each(METHODS)('a VM whose guest writes on after a save by %s is refused', async (method) => {
    const vm = await start('writeOn', 'qcow2');
    await save(vm, { method });
    await vm.end();
    await expect(restoreTiny()).rejects.toMatchObject(refusal(disk()));
    await restoreAndEnd({ disksAsSaved: true });
  });

  it('a VM that has run and written since its restore is refused', async () => {
    await save(await start('writeOn'), PUT_AWAY);
    const then = statSync(disk()).mtimeMs;
    const pid = await restoreTiny();
    await until('the guest to write', () => statSync(disk()).mtimeMs !== then);
    await killAndWait(pid);
    await expect(restoreTiny()).rejects.toMatchObject(refusal(disk()));
  });

  it('a copy that is put back is the disk if it has kept its time, and else when the user says so', async () => {
    await save(await start('writeOnce'), PUT_AWAY);
    inDir('cp', '-a', 'disk', 'kept');
    write();
    inDir('cp', '-a', 'kept', 'disk');
    await restoreAndEnd();
    inDir('mv', 'kept', 'disk');
    await restoreAndEnd();
    inDir('cp', 'disk', 'copy');
    inDir('mv', 'copy', 'disk');
    await expect(restoreTiny()).rejects.toMatchObject(refusal(disk()));
    await restoreAndEnd({ disksAsSaved: true });
  });

  it('a mapped restore asks, too; a command line of the user’s own is their own affair', async () => {
    const drive = ['-drive', `if=virtio,format=raw,file=${disk()}`];
    await save(await start('writeOnce'), { ...PUT_AWAY, layout: 'raw' });
    await restoreAndEnd({ mode: 'map' });
    write();
    await expect(restoreTiny({ mode: 'map' })).rejects.toMatchObject(refusal(disk()));
    const own = ['-machine', 'q35', '-m', '64', '-accel', 'tcg', '-display', 'none', '-nodefaults', ...drive];
    await restoreAndEnd({ qemuArgs: own });
  });

  it('learning goes on with a newer disk, and says so', async () => {
    await save(await start('writeOnce'), PUT_AWAY);
    write();
    const args = [
      '--store',
      storeDir,
      'learn',
      '--runs',
      '1',
      '--seconds',
      '0.1',
      '--qemu',
      qemuBinary(qemu),
    ];
    const { code, stderr } = await startCli([...args, 'tiny']).ended;
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.stringContaining(`${disk()} was last written at`) as string,
    });
  });

  it('the unit for systemd puts a VM away and brings it back', async () => {
    const vm = await start('writeOnce');
    const unit = readFileSync(path.join(PACKAGE_ROOT, 'docs/systemd/vmckpt-vm@.service'), 'utf8');
    const run = async (key: string) => {
      const line = new RegExp(`^${key}=/usr/bin/env vmckpt (.*)$`, 'm').exec(unit)![1]!;
      const words = line.replace('%i', 'tiny').replace('${QMP}', vm.qmpSocket).split(' ');
      const { code, stderr } = await startCli(words, { env: { VMCKPT_STORE: storeDir } }).ended;
      return { code, stderr };
    };
    expect(await run('ExecStop')).toMatchObject({ code: 0 });
    expect(await run('ExecStart')).toMatchObject({ code: 0 });
    expect(await startCli(['stop', 'tiny']).ended).toMatchObject({ code: 0 });
    write();
    expect(await run('ExecStart')).toEqual({
      code: 14,
      stderr: expect.stringContaining('the disks are not as they were') as string,
    });
  });

  it('show and list tell of it; restore ends with 14', async () => {
    await save(await start('writeOnce'), PUT_AWAY);
    const run = async (...args: string[]) => {
      const { code, json, stdout } = await startCli(['--store', storeDir, ...args]).ended;
      return { code, json, stdout };
    };
    expect(await run('--json', 'show', 'tiny')).toMatchObject({ json: { changedDisks: [] } });
    expect((await run('list')).stdout).toContain('disks external');
    write();
    const { stdout } = await run('show', 'tiny');
    expect(stdout).toContain(`external, not in the checkpoint: ${disk()}`);
    expect(stdout).toContain(`Not as saved  ${disk()} was last written at`);
    expect(await run('--json', 'list')).toMatchObject({
      json: { checkpoints: [{ externalDisks: [disk()] }] },
    });
    expect(await run('--json', 'restore', 'tiny')).toMatchObject({ code: 14 });
    const external = await run('--json', 'restore', '--disks-as-saved', '--qemu', qemuBinary(qemu), 'tiny');
    expect(external).toMatchObject({ code: 0 });
    expect(await run('stop', 'tiny')).toMatchObject({ code: 0 });
  });
}

describeOnEachQemu('a disk that a checkpoint does not hold', suite);
describeOnQemu11('a disk that a checkpoint does not hold', () => suite('11'));
