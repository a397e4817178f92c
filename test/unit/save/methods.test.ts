import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { chooseMethod } from '../../../src/save/methods.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

const RUNNING = { running: true } as const;

function backend(file: string) {
  return [{ id: 'pc.ram', type: 'memory-backend-file', sizeBytes: 1 << 30, share: false, path: file }];
}

test('a live save stays one unless memory is a private mapping of a file on a disk', () => {
  const file = path.join(temporaryDir(), 'raw-memory');
  writeFileSync(file, '');
  const mapped = chooseMethod({ ...RUNNING, memoryBackends: backend(file) }, 'background-snapshot');
  expect(mapped).toMatchObject({ method: 'stopped', note: expect.stringContaining('paused') as string });
  for (const memoryBackends of [[], backend('/dev/shm/qemu-ram')])
    expect(chooseMethod({ ...RUNNING, memoryBackends }, 'background-snapshot')).toEqual({
      method: 'background-snapshot',
    });
});
