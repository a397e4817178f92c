/** A disk that another QEMU writes to: QEMU would find that out only when it is to let the loaded VM run. */
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { isFileLocked } from '../../src/native/index.js';
import { imagesWrittenTo } from '../../src/qemu/image-locks.js';
import { VmFolder } from '../../src/vms/folder.js';
import { startCli } from '../support/command.js';
import { qemuBinary } from '../support/cache.js';
import { killProcessesOf } from '../support/processes.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { startTinyVm } from '../support/tiny-vm.js';

describeOnEachQemu('a clone beside its original, which writes to its disk', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = path.join(dir, 'store');
  beforeAll(() => {
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'run');
  });

  afterAll(() => killProcessesOf(path.join(dir, 'run')));

  const clone = (mode: string) =>
    startCli([
      ...['--json', '--store', storeDir, 'restore', '--mode', mode, '--qemu', qemuBinary(qemu)],
      ...['--as', 'twin', 'vm'],
    ]).ended;

  it.each(['qcow2', 'raw'])(
    'is refused by name, and runs when the original has ended (%s)',
    async (format) => {
      const file = path.join(dir, `disk.${format}`);
      execFileSync('qemu-img', ['create', '-q', '-f', format, file, '16M']);
      const vm = startTinyVm({ qemu, dir, args: ['-drive', `file=${file},format=${format},if=virtio`] });
      await vm.untilFirmware();
      await vm.save({ storeDir, name: 'vm', disksExternal: true });
      for (const mode of ['lazy', 'prefetch', 'eager']) {
        expect(await clone(mode)).toMatchObject({
          code: 1,
          json: {
            error: {
              code: 'COLLISION',
              message: expect.stringContaining('another process writes to the disk') as string,
            },
          },
        });
        expect(existsSync(new VmFolder('twin').directory)).toBe(false);
      }
      await vm.end();
      expect(await clone('lazy')).toMatchObject({ code: 0 });
      expect((await startCli(['stop', 'twin']).ended).code).toBe(0);
    },
  );

  it('runs where both only read the disk, which is locked all the same', async () => {
    const file = path.join(dir, 'read-only.img');
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', file, '16M']);
    const vm = startTinyVm({ qemu, dir, args: ['-drive', `file=${file},format=raw,if=virtio,readonly=on`] });
    await vm.untilFirmware();
    await vm.save({ storeDir, name: 'vm' });
    const fd = openSync(file, 'r');
    expect([isFileLocked(fd), imagesWrittenTo([file], '/')]).toEqual([true, []]);
    closeSync(fd);
    expect(await clone('lazy')).toMatchObject({ code: 0 });
    expect((await startCli(['stop', 'twin']).ended).code).toBe(0);
    await vm.end();
  });
});
