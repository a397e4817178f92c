import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { identifyProcess } from '../../src/util/process-identity.js';
import { cliSuite, isRoot, WITHOUT_CAPABILITIES } from '../support/cli.js';
import { storeGeneration } from '../support/stored.js';

interface Diagnosis {
  readonly usable: boolean;
  readonly checks: readonly { check: string; status: string; found: string; remedy?: string }[];
}

describe('vmckpt doctor', () => {
  const { run, storeDir, runtimeDir, directory } = cliSuite();

  async function examine(...args: Parameters<typeof run>): Promise<Diagnosis & { code: number | null }> {
    const { code, json } = await run(...args);
    return { code, ...(json as Diagnosis) };
  }

  it('examines everything, and its exit code says whether all is usable', async () => {
    const { code, usable, checks } = await examine(['--json', 'doctor']);
    expect(checks.map(({ check }) => check)).toEqual([
      ...['addon', 'kernel', 'qemu', 'live-save', 'lazy-restore', 'preempt'],
      ...['kvm', 'ptrace', 'tracker', 'store', 'leftovers'],
    ]);
    for (const { status, remedy } of checks) if (status !== 'ok') expect(remedy).toBeTruthy();
    expect(usable).toBe(checks.every(({ status }) => status === 'ok'));
    expect(code).toBe(usable ? 0 : 3);
    const { stdout } = await run(['doctor']);
    expect(stdout).toMatch(/^ok {4}QEMU: \d+\.\d+\.\d+/m);
  });

  it('names a QEMU that is missing once', async () => {
    const { checks } = await examine(['--json', 'doctor'], { env: { PATH: '/nowhere' } });
    expect(checks.find(({ check }) => check === 'qemu')).toMatchObject({
      found: 'no qemu-system-x86_64 on PATH',
    });
  });

  it('says of KVM what it has tried', async () => {
    const { checks } = await examine(['--json', 'doctor']);
    const { status, found } = checks.find(({ check }) => check === 'kvm')!;
    expect(found).toMatch(
      status === 'ok'
        ? /^QEMU ran a machine's firmware under KVM for \d+ ms$/
        : /^(there is no|a machine that QEMU ran|\/dev\/kvm (opens, but QEMU cannot|does not open))/,
    );
  });

  it('says what stands in for a QEMU that there is not', async () => {
    const { code, checks } = await examine(['--json', 'doctor', '--qemu', 'qemu-system-none']);
    expect(code).toBe(3);
    expect(checks).toContainEqual(
      expect.objectContaining({
        check: 'qemu',
        status: 'fail',
        remedy: expect.stringContaining('apt install') as string,
      }),
    );
  });

  it.skipIf(!isRoot)(
    'lets QEMU itself say that userfaultfd is not permitted (needs root to be tried)',
    async () => {
      const { checks } = await examine(['--json', 'doctor'], { wrapper: WITHOUT_CAPABILITIES });
      const permitted = checks.find(({ check }) => check === 'lazy-restore')!;
      if (permitted.status === 'ok') return; // vm.unprivileged_userfaultfd is 1 on this machine
      expect(permitted).toMatchObject({
        status: 'warn',
        meaning: expect.stringContaining('--mode eager') as string,
        remedy: expect.stringContaining('vm.unprivileged_userfaultfd=1') as string,
      });
      expect(checks).toContainEqual(expect.objectContaining({ check: 'live-save', status: 'warn' }));
    },
  );

  it('finds what crashed runs have left, with the command that mends it', async () => {
    await storeGeneration(storeDir, 'web');
    const unfinished = path.join(storeDir, 'web', '.tmp-2-999');
    mkdirSync(unfinished);
    const stale = path.join(storeDir, 'web', '.use-1-999-abcd');
    writeFileSync(stale, '999\n');
    const { pid, startTicks } = identifyProcess(process.pid)!;
    const cutOff = path.join(runtimeDir, 'saves', `${pid}-${startTicks}`);
    const harmless = path.join(runtimeDir, 'saves', `${pid}-1`);
    for (const folder of [cutOff, harmless]) {
      mkdirSync(folder, { recursive: true });
      writeFileSync(path.join(folder, 'lock'), '999\n');
      writeFileSync(path.join(folder, 'journal.json'), '{}');
    }
    const { code, checks } = await examine(['--json', 'doctor']);
    expect(code).toBe(3);
    const remedies = checks
      .filter(({ check }) => check === 'leftovers')
      .map(({ status, remedy }) => [status, remedy]);
    expect(remedies.sort()).toEqual(
      [
        ['fail', `vmckpt rescue ${pid} --qmp /path/to/its/qmp.sock`],
        ['warn', `rm -r ${harmless}`],
        ['warn', `rm -r ${unfinished}`],
        ['warn', `rm ${stale}`],
      ].sort(),
    );
  });

  it('says that a store cannot be where a file is', async () => {
    const file = path.join(directory, 'file');
    writeFileSync(file, '');
    const { checks } = await examine(['--json', '--store', path.join(file, 'store'), 'doctor']);
    expect(checks).toContainEqual(expect.objectContaining({ check: 'store', status: 'fail' }));
  });
});
