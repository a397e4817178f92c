import { existsSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { claimFolder } from '../../../src/restore/vm-record.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

test('a name is claimed by one restore at a time, and the loser leaves the winner what it has', () => {
  const before = process.env['VMCKPT_RUNTIME_DIR'];
  process.env['VMCKPT_RUNTIME_DIR'] = temporaryDir();
  onTestFinished(() => {
    if (before === undefined) delete process.env['VMCKPT_RUNTIME_DIR'];
    else process.env['VMCKPT_RUNTIME_DIR'] = before;
  });
  const winner = claimFolder('web');
  expect(() => claimFolder('web')).toThrow(expect.objectContaining({ code: 'VM_BUSY' }));
  expect(existsSync(winner.directory)).toBe(true);
  winner.remove();
  claimFolder('web').remove();
});
