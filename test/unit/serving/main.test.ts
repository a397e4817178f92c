import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { toArguments } from '../../../src/serving-protocol/arguments.js';
import { VmFolder } from '../../../src/vms/folder.js';
import { distFile } from '../../../src/util/package-paths.js';
import { deadProcess } from '../../support/cli.js';
import { storeGeneration } from '../../support/stored.js';
import { suiteDirectory } from '../../support/vitest.js';

const directory = suiteDirectory();
const before = process.env['VMCKPT_RUNTIME_DIR'];
process.env['VMCKPT_RUNTIME_DIR'] = path.join(directory, 'run');
afterAll(() => {
  if (before === undefined) delete process.env['VMCKPT_RUNTIME_DIR'];
  else process.env['VMCKPT_RUNTIME_DIR'] = before;
});

it('a serving process that is never told what to do keeps what the one before it has noted', async () => {
  const dir = await storeGeneration(path.join(directory, 'store'), 'web');
  const generation = { name: 'web', number: 1, dir };
  const folder = new VmFolder('web');
  folder.create();
  const held = { pid: process.pid, inode: 4711 };
  folder.writeTransfer({ process: deadProcess(), status: 'serving', loaded: true, held });
  const script = distFile('serving/main.js');
  const transfer = spawn(process.execPath, [script, ...toArguments({ name: 'web', generation })], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
  });
  const exited = once(transfer, 'exit');
  const line = transfer.stdio[3] as Socket;
  await once(line, 'data'); // it has opened the checkpoint
  line.destroy();
  await exited;
  expect(folder.readTransfer()).toMatchObject({
    status: 'failed',
    error: { code: 'TRANSFER_FAILED' },
    loaded: true,
    held,
  });
});

it('a successor that cannot open the generation says why, and keeps what the one before it has noted', async () => {
  const generation = { name: 'gone', number: 1, dir: path.join(directory, 'store', 'gone', '1') };
  const folder = new VmFolder('gone');
  folder.create();
  const held = { pid: process.pid, inode: 4711 };
  const counters = { demandFaults: 7 };
  folder.writeTransfer({ process: deadProcess(), status: 'serving', loaded: true, held, counters });
  const args = toArguments({ name: 'gone', generation, isSuccessor: true });
  const transfer = spawn(process.execPath, [distFile('serving/main.js'), ...args], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
  });
  await once(transfer, 'exit');
  expect(folder.readTransfer()).toMatchObject({
    status: 'failed',
    error: { code: 'NO_CHECKPOINT', message: expect.stringContaining(generation.dir) as string },
    loaded: true,
    held,
    counters,
  });
});
