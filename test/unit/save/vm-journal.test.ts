import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { VmJournal, listAbandonedSaves } from '../../../src/save/vm-journal.js';
import { identifyProcess, isStopped } from '../../../src/util/process-identity.js';
import { until } from '../../support/until.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

beforeEach(() => {
  const before = process.env['VMCKPT_RUNTIME_DIR'];
  process.env['VMCKPT_RUNTIME_DIR'] = temporaryDir();
  onTestFinished(() => {
    if (before === undefined) delete process.env['VMCKPT_RUNTIME_DIR'];
    else process.env['VMCKPT_RUNTIME_DIR'] = before;
  });
});

const vm = identifyProcess(process.pid)!;

function refusal(): unknown {
  try {
    VmJournal.open(vm).close();
    return undefined;
  } catch (error) {
    return error;
  }
}

test('a VM that is being saved is refused, with the process that does it', () => {
  const journal = VmJournal.open(vm);
  expect(refusal()).toMatchObject({
    code: 'VM_BUSY',
    message: `another vmckpt (process ${process.pid}) is saving this VM`,
    hint: 'Wait until it has finished.',
  });
  journal.close();
  expect(refusal()).toBeUndefined();
});

test('a process that saves the VM and is stopped is named as such, with what helps', async () => {
  const holder = spawn('sleep', ['infinity'], { stdio: 'ignore' });
  const exited = once(holder, 'exit');
  const pid = holder.pid!;
  onTestFinished(async () => {
    holder.kill('SIGKILL');
    await exited;
  });
  holder.kill('SIGSTOP');
  await until('the process to be stopped', () => isStopped(pid));
  const journal = VmJournal.open(vm);
  writeFileSync(path.join(journal.directory, 'lock'), `${pid}\n`);
  expect(refusal()).toMatchObject({
    code: 'VM_BUSY',
    message: expect.stringContaining(`(process ${pid}) is saving this VM, but it is stopped`) as string,
    hint: expect.stringContaining(`kill -CONT ${pid}`) as string,
  });
  journal.close();
});

test('a save that died together with its VM leaves no folder once another begins', () => {
  const ended = VmJournal.open({ pid: vm.pid, startTicks: 1 });
  ended.write({ wasRunning: true, method: 'capture', capabilities: {}, parameters: {} });
  ended.close();
  expect(listAbandonedSaves()).toMatchObject([{ vmAlive: false, unsettled: true }]);
  VmJournal.open(vm).close();
  expect(listAbandonedSaves()).toEqual([]);
});
