/** What is under way in a VM, or left to chance, when it is saved. */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, expect, it } from 'vitest';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { startTinyVm } from '../support/tiny-vm.js';

const DISK_BYTES = 2 ** 24;

describeOnEachQemu('a save', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = path.join(dir, 'store');
  beforeEach(() => {
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
  });

  it.each([
    ['mirror', ['blockdev-mirror', { device: 'overlay', target: 'other', sync: 'full', speed: 1 }]],
    ['backup', ['blockdev-backup', { device: 'disk', target: 'other', sync: 'full', speed: 1 }]],
    ['stream', ['block-stream', { device: 'overlay', speed: 1 }]],
    ['commit', ['block-commit', { device: 'overlay', speed: 1 }]],
  ] as const)('names a job that is under way, and lets it go on: %s', async (type, [command, job]) => {
    const image = path.join(dir, `${type}.raw`);
    const overlay = path.join(dir, `${type}.qcow2`);
    writeFileSync(image, Buffer.alloc(DISK_BYTES, 1));
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', image, overlay]);
    execFileSync('qemu-io', ['-c', 'write -q -P 2 0 8M', overlay]);
    const vm = startTinyVm({
      qemu,
      dir,
      args: [
        ...['-blockdev', `driver=file,node-name=file,filename=${image}`],
        ...['-blockdev', 'driver=raw,node-name=disk,file=file'],
        ...['-blockdev', `driver=null-co,node-name=other,size=${DISK_BYTES}`],
        ...[
          '-blockdev',
          `driver=qcow2,node-name=overlay,backing=disk,file.driver=file,file.filename=${overlay}`,
        ],
      ],
    });
    await vm.untilStatus('running');
    await vm.ask([command, { 'job-id': 'work', ...job }]);
    const saved = vm.save({ storeDir, name: 'tiny', disksExternal: true });
    await expect(saved).rejects.toMatchObject({
      code: 'VM_BUSY',
      message: expect.stringContaining(`the job "work" (${type}, running)`) as string,
    });
    expect(await vm.ask('query-jobs')).toMatchObject([{ id: 'work', status: 'running' }]);
    expect(existsSync(storeDir)).toBe(false);
  });

  it.each([
    ['-snapshot', true],
    ['snapshot=on', false],
  ] as const)(
    'refuses a disk that ends with QEMU, also when the user keeps the disks: %s',
    async (_title, all) => {
      const image = path.join(dir, 'temporary.raw');
      writeFileSync(image, Buffer.alloc(DISK_BYTES));
      const drive = `if=none,id=disk,file=${image},format=raw${all ? '' : ',snapshot=on'}`;
      const args = ['-drive', drive, '-device', 'virtio-blk,drive=disk', ...(all ? ['-snapshot'] : [])];
      const vm = startTinyVm({ qemu, dir, args });
      await vm.untilStatus('running');
      for (const disksExternal of [true, false])
        await expect(vm.save({ storeDir, name: 'tiny', disksExternal })).rejects.toMatchObject({
          code: 'DISKS_WRITABLE',
          message: expect.stringContaining('lost with QEMU') as string,
          hint: expect.not.stringContaining('--disks external') as string,
        });
      expect(await vm.status()).toBe('running');
    },
  );
});
