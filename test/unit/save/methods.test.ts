import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { chooseMethod, type SaveMethod } from '../../../src/save/methods.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

const version = { major: 7, minor: 2, micro: 0, text: '7.2.0' };
const RUNNING = { running: true, accelerator: 'tcg', version } as const;

function backend(file: string, share = false) {
  return [{ id: 'pc.ram', type: 'memory-backend-file', sizeBytes: 1 << 30, share, path: file }];
}

test('a live save stays one unless memory is in a file on a disk', () => {
  const file = path.join(temporaryDir(), 'raw-memory');
  writeFileSync(file, '');
  for (const share of [false, true]) {
    const onDisk = chooseMethod({ ...RUNNING, memoryBackends: backend(file, share) }, 'background-snapshot');
    expect(onDisk).toMatchObject({ method: 'stopped', note: expect.stringContaining('paused') as string });
  }
  for (const memoryBackends of [[], backend('/dev/shm/qemu-ram')])
    expect(chooseMethod({ ...RUNNING, memoryBackends }, 'background-snapshot')).toEqual({
      method: 'background-snapshot',
    });
});

test('without userfaultfd a live save is pre-copy where that is safe, and else pauses the VM', () => {
  const choose = (vm: object, wished: SaveMethod = 'background-snapshot') =>
    chooseMethod({ ...RUNNING, memoryBackends: [], ...vm }, wished, { mayWatch: false });
  expect(choose({})).toMatchObject({ method: 'stopped', note: expect.stringContaining('paused') as string });
  for (const vm of [{ accelerator: 'kvm' }, { version: { ...version, major: 10 } }])
    expect(choose(vm)).toMatchObject({
      method: 'precopy',
      note: expect.stringContaining('pre-copy') as string,
    });
  expect(choose({}, 'stopped')).toEqual({ method: 'stopped' });
  expect(choose({ running: false })).toEqual({ method: 'stopped' });
});
