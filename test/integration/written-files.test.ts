/** What a VM has written to files of the host before its restore is still there afterwards. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { useOwnFolders } from '../support/checkpointing.js';
import {
  endScriptedVm,
  endScriptedVms,
  restoreTinyVm,
  saveTinyVm,
  startScriptedVm,
} from '../support/tiny-vm.js';
import { suiteDirectory } from '../support/vitest.js';

const OPTIONS = [
  '-serial file:serial',
  '-serial none',
  '-serial mon:file:with-monitor',
  '-serial unix:log.sock,server=on,wait=off,logfile=old-log',
  '-parallel file:parallel',
  '-monitor file:monitor',
  '-debugcon file:debug',
  '-chardev file,id=c,path=chardev -device isa-debugcon,iobase=0x402,chardev=c',
  '-chardev null,id=l,logfile=chardev-log -device isa-debugcon,iobase=0x403,chardev=l',
  '-D qemu-log -d guest_errors',
  '-netdev user,id=n -device e1000,netdev=n -object filter-dump,id=f,netdev=n,file=packets',
];
const APPENDED = [...['serial', 'with-monitor', 'old-log', 'parallel', 'debug', 'chardev', 'chardev-log']];
const SET_ASIDE = ['monitor', 'qemu-log', 'packets'];
const SAID = 'said before\n';

describe('the files that QEMU writes', () => {
  const dir = suiteDirectory();
  useOwnFolders(dir);
  endScriptedVms();

  it('keep what the saved VM has written, also when the restored one is saved', async () => {
    const begins = (name: string) => readFileSync(path.join(dir, name), 'latin1').startsWith(SAID);
    const vm = await startScriptedVm({ dir, script: `exec "$@" ${OPTIONS.join(' ')}` });
    for (const name of [...APPENDED, ...SET_ASIDE]) writeFileSync(path.join(dir, name), SAID);
    await saveTinyVm(vm);
    await endScriptedVm(vm);

    const messages: string[] = [];
    const onMessage = (text: string) => void messages.push(text);
    const first = await restoreTinyVm(vm, { onMessage });
    expect(APPENDED.filter((name) => !begins(name))).toEqual([]);
    expect(messages.filter((text) => text.includes('Differs'))).toEqual([]);
    for (const name of SET_ASIDE) {
      expect(begins(`${name}.1`)).toBe(true);
      const file = path.join(dir, name);
      expect(
        messages.filter((text) => text.includes(`its former contents are now in ${file}.1`)),
      ).toHaveLength(1);
    }

    await saveTinyVm({ ...vm, qmpSocket: first.qmpSocket });
    await endScriptedVm({ pid: first.qemuPid! });
    await restoreTinyVm(vm);
    expect(APPENDED.filter((name) => !begins(name))).toEqual([]);
    expect(SET_ASIDE.filter((name) => !begins(`${name}.1`))).toEqual([]);
  });

  it('have the number of the process that runs, and go with it', async () => {
    const pidfile = path.join(dir, 'vm.pid');
    const numberIn = (file: string) => Number(readFileSync(file, 'latin1'));
    const options = { dir, qmp: path.join(dir, 'third.sock') };
    const vm = await startScriptedVm({ ...options, script: 'exec "$@" -pidfile vm.pid -daemonize' });
    expect(numberIn(pidfile)).toBe(vm.pid);
    await saveTinyVm(vm, { name: 'numbered' });
    const messages: string[] = [];
    const onMessage = (text: string) => void messages.push(text);
    const reference = 'numbered';
    const clone = await restoreTinyVm(vm, { reference, vmName: 'twin', identity: 'clone', onMessage });
    expect(messages).toContainEqual(expect.stringMatching(/^The VM stays paused.*--run/));
    expect(numberIn(pidfile)).toBe(vm.pid);
    const moved = clone.moved.find(({ option }) => option === '-pidfile')!;
    expect(numberIn(moved.to)).toBe(clone.qemuPid);
    // Killed, it leaves the file, and another process may get the number.
    await endScriptedVm(vm);
    writeFileSync(pidfile, `${process.pid}\n`);
    const { qemuPid, qmpSocket } = await restoreTinyVm(vm, { reference });
    expect(numberIn(pidfile)).toBe(qemuPid);
    const said: string[] = [];
    await saveTinyVm({ ...vm, qmpSocket }, { quit: true, onMessage: (text) => void said.push(text) });
    expect(said).toContainEqual(expect.stringContaining('vmckpt restore --run'));
    expect(existsSync(pidfile)).toBe(false);
  });

  it('are emptied where their option says so', async () => {
    const vm = await startScriptedVm({
      dir,
      qmp: path.join(dir, 'second.sock'),
      script: 'exec "$@" -chardev file,id=c,path=emptied,append=off -serial chardev:c',
    });
    writeFileSync(path.join(dir, 'emptied'), SAID);
    await saveTinyVm(vm, { name: 'emptied' });
    await endScriptedVm(vm);
    await restoreTinyVm(vm, { reference: 'emptied' });
    expect(readFileSync(path.join(dir, 'emptied'), 'latin1')).toBe('');
  });
});
