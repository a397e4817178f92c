import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { readManifest } from '../../../src/checkpoint/manifest.js';
import { removeGeneration } from '../../../src/vms/needs-generation.js';
import { storeGeneration } from '../../support/stored.js';
import { identifyProcess } from '../../../src/util/process-identity.js';
import { stopVm } from '../../../src/vms/stop.js';
import { claimFolder, NameClaim } from '../../../src/vms/claim.js';
import { statusOf } from '../../../src/vms/status.js';
import type { VmFolder } from '../../../src/vms/folder.js';
import type { VmRecord } from '../../../src/vms/records.js';
import { LockFile } from '../../../src/store/lock-file.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

beforeEach(() => {
  const before = process.env['VMCKPT_RUNTIME_DIR'];
  process.env['VMCKPT_RUNTIME_DIR'] = temporaryDir();
  onTestFinished(() => {
    if (before === undefined) delete process.env['VMCKPT_RUNTIME_DIR'];
    else process.env['VMCKPT_RUNTIME_DIR'] = before;
  });
});

/** Of a VM whose verb has died. */
function recordOf(folder: VmFolder): VmRecord {
  return {
    name: 'web',
    generation: 1,
    generationDir: '/store/web/1',
    mode: 'lazy',
    version: 2,
    ramBytes: 4096,
    restoredAt: '2026-01-01T00:00:00Z',
    verb: { pid: 1 << 22, startTicks: 1 },
    qmpSocket: folder.file('qmp.sock'),
  };
}

test('a name is claimed by one restore at a time, and the loser leaves the winner what it has', () => {
  const winner = claimFolder('web');
  expect(() => claimFolder('web')).toThrow(expect.objectContaining({ code: 'VM_BUSY' }));
  expect(existsSync(winner.folder.directory)).toBe(true);
  winner.folder.remove();
  winner.claim.release();
  claimFolder('web').claim.release();
  expect(readdirSync(path.join(process.env['VMCKPT_RUNTIME_DIR']!, 'claims'))).toEqual([]);
});

test('a VM that is being restored can neither be restored nor stopped, and each says which process does it', async () => {
  const { folder, claim } = claimFolder('web');
  const busy = { code: 'VM_BUSY', hint: expect.stringMatching(`kill -INT ${process.pid}$`) as string };
  expect(() => claimFolder('web')).toThrow(expect.objectContaining(busy));
  folder.write({ ...recordOf(folder), verb: identifyProcess(process.pid)! });
  claim.release();
  expect(() => claimFolder('web')).toThrow(expect.objectContaining(busy));
  await expect(stopVm('web')).rejects.toMatchObject(busy);
});

test.each([['{"version":3}'], [''], ['nonsense']])(
  'a record that cannot be read is not taken for none: %s',
  (text) => {
    const { folder, claim } = claimFolder('web');
    writeFileSync(folder.file('vm.json'), text);
    claim.release();
    expect(() => claimFolder('web')).toThrow(expect.objectContaining({ code: 'VM_BUSY' }));
    expect(existsSync(folder.file('vm.json'))).toBe(true);
  },
);

test('a generation that a VM needs is not removed by another path to it', async () => {
  const storeDir = path.join(temporaryDir(), 'store');
  const dir = await storeGeneration(storeDir, 'web');
  const { folder, claim } = claimFolder('web');
  const qemu = identifyProcess(process.pid)!;
  const { id: generationId } = readManifest(dir);
  folder.write({ ...recordOf(folder), qemu, generationDir: dir, generationId });
  claim.release();
  renameSync(path.join(storeDir, 'web'), path.join(storeDir, 'moved'));
  await expect(removeGeneration(storeDir, 'moved@1')).rejects.toMatchObject({ code: 'STORE_LOCKED' });
  folder.remove();
  await removeGeneration(storeDir, 'moved@1');
});

test('an ended VM is forgotten, but not a restore that has taken its name since', async () => {
  const { folder, claim } = claimFolder('web');
  folder.write(recordOf(folder));
  claim.release();
  const next = NameClaim.take('web')!;
  const ended = { name: 'web', qemuPid: null, endedBy: null };
  expect(await stopVm('web')).toEqual(ended);
  expect(existsSync(folder.directory)).toBe(true);
  next.release();
  expect(await stopVm('web')).toEqual(ended);
  expect(existsSync(folder.directory)).toBe(false);
});

test('a VM whose verb has died is abandoned, unless its transfer is at work all the same', async () => {
  const { folder, claim } = claimFolder('web');
  // Whoever was told to listen there is taken for its QEMU.
  const script = 'setInterval(() => undefined, 1000); console.log(0)';
  const qemu = spawn(process.execPath, ['-e', script, `${folder.file('qmp.sock')},server=on`]);
  onTestFinished(() => void qemu.kill());
  await once(qemu.stdout, 'data');
  folder.write(recordOf(folder));
  claim.release();
  const status = () => statusOf(folder.read()!, folder.readTransfer());
  expect(status()).toBe('abandoned');
  const lock = LockFile.tryTake(folder.file('transfer.lock'))!;
  expect(status()).toBe('starting');
  setTimeout(() => lock.release(), 100);
  // Whoever ends it waits for that.
  expect(await stopVm('web')).toEqual({ name: 'web', qemuPid: qemu.pid, endedBy: 'SIGTERM' });
  expect(existsSync(folder.directory)).toBe(false);
});
