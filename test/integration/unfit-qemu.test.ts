/** What a QEMU does not know, or has been built without: it says so in many ways, and all of them mean that it does not fit. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { launchQemu } from '../../src/qemu/launch.js';
import { qemuBinary, type QemuChoice } from '../support/cache.js';
import { describeOnEachQemu, describeOnQemu11, suiteDirectory } from '../support/vitest.js';

/** One of each kind of option that names something, and one of each way to name it. */
const UNKNOWN = [
  ['-none'],
  ['-none', 'x'],
  ['-machine', 'none-35'],
  ['-machine', 'q35,none=1'],
  ['-accel', 'none'],
  ['-accel', 'tcg,none=1'],
  ['-cpu', 'none'],
  ['-cpu', 'qemu64,none=on'],
  ['-smp', '2,none=1'],
  ['-m', '64M,none=1'],
  ['-boot', 'none=1'],
  ['-vga', 'nosuch'],
  ['-display', 'nosuch'],
  ['-display', 'gtk,none=1'],
  ['-vnc', 'none,none=1'],
  ['-device', 'none'],
  ['-device', '{"driver":"none"}'],
  ['-device', 'virtio-net-pci,none=1'],
  ['-device', 'virtio-net-pci,disable-modern=none'],
  ['-device', 'virtio-net-pci,bus=none'],
  ['-device', 'virtserialport'],
  ['-global', 'virtio-net-pci.none=1', '-device', 'virtio-net-pci'],
  ['-object', 'none,id=x'],
  ['-object', '{"qom-type":"none","id":"x"}'],
  ['-object', 'iothread,id=x,none=1'],
  ['-object', 'memory-backend-epc,id=x,size=1M'],
  ['-chardev', 'nosuch,id=x'],
  ['-chardev', 'null,id=x,none=1'],
  ['-serial', 'nosuch'],
  ['-monitor', 'nosuch'],
  ['-netdev', 'nosuch,id=x'],
  ['-netdev', '{"type":"nosuch","id":"x"}'],
  ['-netdev', 'user,id=x,none=1'],
  ['-audiodev', 'nosuch,id=x'],
  ['-audiodev', 'none,id=x,none=1'],
  ['-blockdev', 'nosuch,node-name=n'],
  ['-blockdev', 'null-co,node-name=n,none=1'],
  ['-drive', 'file=null-co://,format=nosuch'],
  ['-drive', 'file=null-co://,format=raw,none=1'],
  ['-drive', 'file=null-co://,format=raw,if=nosuch'],
  ['-drive', 'file=nosuch:x,format=raw,if=none,file.driver=nosuch'],
  ['-fsdev', 'nosuch,id=x'],
  ['-tpmdev', 'nosuch,id=x'],
  ['-usbdevice', 'nosuch'],
  ['-watchdog-action', 'nosuch'],
  ['-sandbox', 'on,none=1'],
  ['-rtc', 'none=1'],
  ['-compat', 'none=1'],
] as const;

/** In packages of their own, which fixtures/qemu.sh does not unpack. */
const MODULES: Readonly<Record<QemuChoice, readonly (readonly string[])[]>> = {
  system: [], // unknown: it is the host's
  '10': [
    ['-vga', 'qxl'],
    ['-device', 'qxl-vga'],
    ['-display', 'gtk'],
    ['-display', 'dbus'],
    ['-spice', 'port=0'],
    ['-audiodev', 'pa,id=x'],
    ['-chardev', 'spicevmc,id=x,name=vdagent'],
    ['-blockdev', 'rbd,node-name=n,pool=p,image=i'],
  ],
  '11': [
    ['-vga', 'qxl'],
    ['-display', 'gtk'],
    ['-spice', 'port=0'],
    ['-runas', 'nobody'],
  ],
};

function suite(choice: QemuChoice): void {
  const directory = suiteDirectory();
  it.each([...UNKNOWN, ...MODULES[choice]].map((args) => [args] as const))(
    'does not fit %j',
    async (args) => {
      const qmpSocket = path.join(directory, 'qmp.sock');
      const launching = launchQemu({
        binary: qemuBinary(choice),
        args: ['-S', '-display', 'none', '-nodefaults', ...args],
        cwd: directory,
        logPath: path.join(directory, `${args.join(' ').replaceAll('/', '-')}.log`),
        qmpSocket,
      });
      await expect(launching).rejects.toMatchObject({ code: 'QEMU_INCOMPATIBLE' });
    },
  );
}

describe('a QEMU without a part of the command line', () => {
  describeOnEachQemu('it', suite);
  describeOnQemu11('it', () => suite('11'));
});

describe('a QEMU that lacks a file', () => {
  const dir = suiteDirectory();

  it.each([
    ['-bios', 'nosuch.bin'],
    ['-kernel', '/nosuch/kernel'],
    ['-acpitable', 'sig=TEST,data=/nosuch/table'],
    ['-drive', 'if=none,file=/nosuch/disk'],
  ])('says which option names it: %s %s', async (...args) => {
    const qmpSocket = path.join(dir, 'missing.sock');
    const launched = launchQemu({
      binary: qemuBinary('system'),
      args: ['-machine', 'q35', '-display', 'none', ...args, '-qmp', `unix:${qmpSocket},server=on,wait=off`],
      logPath: path.join(dir, `missing${args[0]}.log`),
      qmpSocket,
    });
    const message = expect.stringContaining(args.join(' ')) as string;
    await expect(launched).rejects.toMatchObject({ code: 'QEMU_FAILED_TO_START', message });
  });
});
