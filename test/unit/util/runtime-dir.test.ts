import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { ensureRuntimeDir } from '../../../src/util/runtime-dir.js';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'vmckpt-test-'));
  const before = process.env['VMCKPT_RUNTIME_DIR'];
  process.env['VMCKPT_RUNTIME_DIR'] = path.join(directory, 'run');
  onTestFinished(() => {
    rmSync(directory, { recursive: true });
    if (before === undefined) delete process.env['VMCKPT_RUNTIME_DIR'];
    else process.env['VMCKPT_RUNTIME_DIR'] = before;
  });
});

test('makes folders that only their owner may enter', () => {
  const made = ensureRuntimeDir('vms', 'web');
  expect(made).toBe(path.join(directory, 'run', 'vms', 'web'));
  for (const folder of [made, path.dirname(made), path.join(directory, 'run')])
    expect(statSync(folder).mode & 0o777).toBe(0o700);
  expect(ensureRuntimeDir('vms', 'web')).toBe(made);
});

test('refuses a folder that others may write to, and says what to do', () => {
  mkdirSync(path.join(directory, 'run'));
  chmodSync(path.join(directory, 'run'), 0o777);
  expect(() => ensureRuntimeDir('vms')).toThrow(
    expect.objectContaining({ code: 'NOT_PERMITTED', hint: expect.stringContaining('chmod 700') as string }),
  );
});

test('refuses a link to somewhere else', () => {
  symlinkSync(directory, path.join(directory, 'run'));
  expect(() => ensureRuntimeDir('vms')).toThrow(expect.objectContaining({ code: 'NOT_PERMITTED' }));
});

test.skipIf(process.getuid?.() !== 0)('refuses a folder of another user (needs root to make one)', () => {
  mkdirSync(path.join(directory, 'run'), { mode: 0o700 });
  chownSync(path.join(directory, 'run'), 65534, 65534);
  expect(() => ensureRuntimeDir('vms')).toThrow(expect.objectContaining({ code: 'NOT_PERMITTED' }));
});
