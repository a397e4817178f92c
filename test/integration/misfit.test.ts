/** A VM that is started with other parts than the saved one does not fit, whichever way its state is loaded. */
import { describe, expect, it } from 'vitest';
import { qemuBinary, type QemuChoice } from '../support/cache.js';
import { useOwnFolders } from '../support/checkpointing.js';
import { endScriptedVm, restoreTinyVm, saveTinyVm, startScriptedVm } from '../support/tiny-vm.js';
import { describeOnEachQemu, describeOnQemu11, suiteDirectory } from '../support/vitest.js';
import { TINY } from './qemu-helper.js';

const devices = (controller: string, device: string) => [
  ...['-device', `qemu-xhci,id=xhci${controller}`],
  ...['-device', `usb-kbd,id=part,bus=xhci.0${device}`],
];

/** QEMU alone finds out about them. */
const OTHERS = [
  ['without it', []],
  ['with it in another place', devices('', ',port=4')],
  ['with its controller in another place', devices(',addr=9', ',port=3')],
] as const;

const WAYS = [
  { mode: 'eager' },
  { mode: 'lazy', path: 'stream' },
  { mode: 'lazy', path: 'direct' },
  { mode: 'map' },
] as const;

function suite(choice: QemuChoice): void {
  const dir = suiteDirectory();
  useOwnFolders(dir);
  const qemu = qemuBinary(choice);

  it.each(OTHERS)('that is loaded %s', async (_, others) => {
    const script = `shift; exec ${qemu} "$@" ${devices('', ',port=3').join(' ')}`;
    const vm = await startScriptedVm({ script, dir });
    await saveTinyVm(vm, { layout: 'raw' });
    await endScriptedVm(vm);
    for (const way of WAYS) {
      const restored = restoreTinyVm(vm, { ...way, qemuBinary: qemu, qemuArgs: [...TINY, ...others] });
      const hint = expect.stringMatching(/devices must be the same|its configuration differs/) as string;
      await expect(restored, JSON.stringify(way)).rejects.toMatchObject({ exitCode: 14, hint });
    }
  });
}

describe('a VM with a device', () => {
  describeOnEachQemu('it', suite);
  describeOnQemu11('it', () => suite('11'));
});
