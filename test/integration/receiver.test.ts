import type { ChildProcess } from 'node:child_process';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { QmpClient } from '../../src/qemu/qmp.js';
import { Receiver, takeBack } from '../../src/save/receiver.js';
import { openFilesOf } from '../support/processes.js';
import { connectWhenReady, endProcess, startQemu, temporaryDirectory, TINY } from './qemu-helper.js';

const { directory, remove } = temporaryDirectory();
const socket = path.join(directory, 'qmp.sock');
let qemu: ChildProcess;
let qmp: QmpClient;
beforeAll(async () => {
  qemu = startQemu([...TINY, '-qmp', `unix:${socket},server=on,wait=off`]);
  qmp = await connectWhenReady(socket);
});
afterAll(async () => {
  await endProcess(qemu);
  remove();
});

function pipesOfQemu(): number {
  return openFilesOf(qemu.pid!).filter((name) => name.startsWith('pipe:')).length;
}

it('a pipe that QEMU was lent and never used is taken back, however often', async () => {
  const before = pipesOfQemu();
  for (let save = 0; save < 3; save++) {
    const receiver = await Receiver.start({ method: 'background-snapshot' });
    expect(await receiver.lendTo(qmp)).toBe('fd:vmckpt-stream');
    receiver.discard();
  }
  expect(pipesOfQemu()).toBe(before + 1);
  await takeBack(qmp);
  await takeBack(qmp);
  expect(pipesOfQemu()).toBe(before);
});
