import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { claimFolder } from '../../../src/vms/claim.js';
import { distFile } from '../../../src/util/package-paths.js';
import { identifyProcess } from '../../../src/util/process-identity.js';
import { ensureRuntimeDir, findRuntimePath, firstUsable, runtimeDir } from '../../../src/util/runtime-dir.js';

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

test('never advises to close what is meant for all, or is no folder', () => {
  const shared = path.join(directory, 'shared');
  mkdirSync(shared);
  chmodSync(shared, 0o1777);
  for (const [chosen, message] of [
    [shared, 'is not private to this user'],
    ['/dev/null', 'is not a folder'],
  ] as const) {
    process.env['VMCKPT_RUNTIME_DIR'] = chosen;
    expect(() => ensureRuntimeDir('vms')).toThrow(
      expect.objectContaining({
        message: expect.stringContaining(message) as string,
        hint: expect.not.stringContaining('chmod') as string,
      }),
    );
  }
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

test('takes the first place that is the own, also when it was not the first choice; never one that others may write to', () => {
  const places = ['run', 'second', 'third'].map((name) => path.join(directory, name));
  const [first, second, third] = places as [string, string, string];
  expect(firstUsable(places)).toBe(first);
  symlinkSync(directory, first);
  expect(firstUsable(places)).toBe(second);
  mkdirSync(second, { mode: 0o700 });
  rmSync(first);
  expect(firstUsable(places)).toBe(second);
  chmodSync(second, 0o777);
  mkdirSync(third);
  chmodSync(third, 0o720);
  symlinkSync(directory, first);
  expect(() => firstUsable(places)).toThrow(expect.objectContaining({ code: 'NOT_PERMITTED' }));
});

describe('without VMCKPT_RUNTIME_DIR', () => {
  const uid = process.getuid!();
  /** `vmckpt ps` in an environment; what it shows. */
  const look = (env: Record<string, string>) =>
    execFileSync(process.execPath, [distFile('cli/main.js'), 'ps', '--json'], {
      env: { PATH: process.env['PATH'], ...env },
      encoding: 'utf8',
    });

  test('is the same under another session, another TMPDIR and none; a VM in the place of an earlier version is found', () => {
    delete process.env['VMCKPT_RUNTIME_DIR'];
    const before = { ...process.env };
    onTestFinished(() => {
      for (const name of ['XDG_RUNTIME_DIR', 'TMPDIR'])
        if (before[name] === undefined) delete process.env[name];
        else process.env[name] = before[name];
    });
    const plain = runtimeDir();
    Object.assign(process.env, { XDG_RUNTIME_DIR: directory, TMPDIR: directory });
    expect(runtimeDir()).toBe(plain);
    for (const former of ['vmckpt', `vmckpt-${uid}`]) {
      const name = `found-${process.pid}-${former}`;
      mkdirSync(path.join(directory, former), { mode: 0o700 });
      mkdirSync(path.join(directory, former, 'vms', name), { recursive: true });
      expect(findRuntimePath('vms', name)).toBe(path.join(directory, former, 'vms', name));
      chmodSync(path.join(directory, former), 0o777);
      expect(findRuntimePath('vms', name)).toBe(path.join(plain, 'vms', name));
    }
  });

  test.skipIf(uid !== 0)('passes over the session of another user, as `su` hands it on', () => {
    mkdirSync(path.join(directory, 'vmckpt'), { mode: 0o700 });
    delete process.env['VMCKPT_RUNTIME_DIR'];
    process.env['XDG_RUNTIME_DIR'] = directory;
    process.seteuid!(65534);
    onTestFinished(() => {
      process.seteuid!(0);
      delete process.env['XDG_RUNTIME_DIR'];
    });
    expect(findRuntimePath('vms', 'web')).toBe(path.join(runtimeDir(), 'vms', 'web'));
  });

  test('shows a VM of an earlier version, and does not start a second one of that name', () => {
    const vm = path.join(directory, 'vmckpt', 'vms', 'old');
    mkdirSync(vm, { recursive: true, mode: 0o700 });
    const verb = identifyProcess(process.pid)!;
    const record = { name: 'old', generation: 1, generationDir: '/gone/1', mode: 'lazy', preempt: 'off' };
    const rest = { capabilities: [], ramBytes: 1, restoredAt: '', verb, qemu: verb, qmpSocket: '/gone' };
    writeFileSync(path.join(vm, 'vm.json'), JSON.stringify({ ...record, ...rest }));
    const shown = JSON.parse(look({ XDG_RUNTIME_DIR: directory })) as { vms: { name: string }[] };
    expect(shown.vms.map(({ name }) => name)).toContain('old');
    process.env['XDG_RUNTIME_DIR'] = directory;
    delete process.env['VMCKPT_RUNTIME_DIR'];
    onTestFinished(() => void delete process.env['XDG_RUNTIME_DIR']);
    expect(() => claimFolder('old')).toThrow(expect.objectContaining({ code: 'VM_BUSY' }));
  });
});
