import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  mkdirSync,
  openSync,
  closeSync,
  readFileSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cliSuite, deadProcess, isRoot, WITHOUT_CAPABILITIES } from '../support/cli.js';
import { storeGeneration } from '../support/stored.js';
import { VmFolder } from '../../src/vms/folder.js';
import { identifyProcess } from '../../src/util/process-identity.js';
import { ownPack } from '../support/packs.js';

describe('checkpoints in a store', () => {
  const { run, storeDir, runtimeDir } = cliSuite();
  let damagedDir: string;

  beforeAll(async () => {
    await storeGeneration(storeDir, 'web');
    await storeGeneration(storeDir, 'web', { runState: 'paused' });
    await storeGeneration(storeDir, 'db', { commandLine: ['-name', 'it\x1b[31m is a trap'] });
    damagedDir = await storeGeneration(storeDir, 'worn');
    overwrite(ownPack(damagedDir), 8192, 'damage');
  });

  it('are listed by name, the newest generation first', async () => {
    const { code, stdout } = await run(['list']);
    expect(code).toBe(0);
    const rows = stdout
      .trim()
      .split('\n')
      .map((line) => line.split(/\s{2,}/));
    expect(rows[0]).toEqual(['NAME', 'GEN', 'CREATED', 'RAM', 'OWN', 'SHARED', 'RAW', 'STATE']);
    expect(
      rows.slice(1).map(([name, generation, , ram, , , , state]) => [name, generation, ram, state]),
    ).toEqual([
      ['db', '1', '256 KiB', 'running, not sealed by this user'],
      ['web', '2', '256 KiB', 'paused, not sealed by this user'],
      ['web', '1', '256 KiB', 'running, not sealed by this user'],
      ['worn', '1', '256 KiB', 'running, not sealed by this user'],
    ]);
    const { json } = await run(['list', '--json']);
    const { checkpoints } = json as { checkpoints: Record<string, unknown>[] };
    expect(checkpoints[1]).toMatchObject({
      name: 'web',
      generation: 2,
      created: '2026-01-02T03:04:05.678Z',
      runState: 'paused',
      ramBytes: 64 * 4096,
      nonZeroBytes: 32 * 4096,
      problem: null,
    });
  });

  it('say what a restore refuses, and what it does not bring back', async () => {
    const [refusal, gone] = ['its -add-fd cannot be opened again', 'the VNC password'];
    const problems = {
      restoreProblems: [{ code: 'COMMAND_LINE_UNSUPPORTED', message: refusal }],
      lost: [gone],
    };
    await storeGeneration(path.join(storeDir, 'apart'), 'held', problems);
    const store = ['--store', path.join(storeDir, 'apart')];
    const { stdout } = await run([...store, 'show', 'held']);
    expect(stdout).toMatch(new RegExp(`Refused as it is\\s+${refusal}\\n\\s*Not restored\\s+${gone}`));
    expect((await run([...store, '--json', 'list'])).json).toMatchObject({ checkpoints: [problems] });
    expect((await run([...store, 'list'])).stdout).toContain('needs a command line of its own');
  });

  it('are shown in all that a person wants to know, the newest generation by default', async () => {
    const { code, stdout } = await run(['show', 'web']);
    expect(code).toBe(0);
    for (const part of [
      'web@2',
      'pc-q35-7.2',
      '7.2.22',
      'pc.ram',
      'virtio-net-pci',
      'disk.img',
      '-machine q35',
    ])
      expect(stdout).toContain(part);
    expect((await run(['--json', 'show', 'web@1'])).json).toMatchObject({
      name: 'web',
      generation: 1,
      directory: path.join(storeDir, 'web', '1'),
      machine: { type: 'pc-q35-7.2' },
      commandLine: ['-machine', 'q35'],
    });
  });

  it('cannot steer the terminal of who looks at them', async () => {
    const { stdout } = await run(['show', 'db']);
    expect(stdout).not.toContain('\x1b');
    expect(stdout).toContain('\\u{1b}[31m');
  });

  it('are not found by names and generations that there are not, and near names are told', async () => {
    const missing = await run(['--json', 'show', 'wev']);
    expect(missing).toMatchObject({ code: 10, json: { error: { code: 'NO_CHECKPOINT' } } });
    expect(missing.stderr).toContain('web');
    expect(await run(['show', 'web@9'])).toMatchObject({ code: 10 });
  });

  it('are sound when every checksum holds', async () => {
    expect(await run(['check', 'web@1'])).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^web@1: sound \(64 pages, /) as string,
    });
    expect(await run(['check', 'web'])).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^web@1: sound .*\nweb@2: sound .*\n$/) as string,
    });
    expect(await run(['--json', 'check', 'wev'])).toMatchObject({
      code: 10,
      json: { error: { code: 'NO_CHECKPOINT' } },
    });
  });

  it('are reported with what is damaged in them, all at once', async () => {
    const { code, json } = await run(['--json', 'check']);
    expect(code).toBe(13);
    const { checks } = json as {
      checks: { name: string; problemCount: number; problems: { code: string }[] }[];
    };
    expect(checks.map(({ name, problemCount }) => [name, problemCount > 0])).toEqual([
      ['db', false],
      ['web', false],
      ['web', false],
      ['worn', true],
    ]);
    expect(checks[3]!.problems[0]!.code).toBe('EXTENT_DAMAGED');
    expect(await run(['check', 'worn'])).toMatchObject({
      code: 13,
      stdout: expect.stringMatching(/^worn@1: 1 problem\n {2}EXTENT_DAMAGED: /) as string,
    });
  });

  it('are listed and checked even when a manifest cannot be read', async () => {
    const dir = await storeGeneration(storeDir, 'torn');
    overwrite(path.join(dir, 'manifest.json'), 20, 'damage');
    expect((await run(['list'])).stdout).toMatch(/^torn +1 +- +- +- +- +- +MANIFEST_DAMAGED$/m);
    expect(await run(['check', 'torn'])).toMatchObject({ code: 13 });
    expect(await run(['show', 'torn'])).toMatchObject({ code: 13 });
    expect(await run(['rm', 'torn@1'])).toMatchObject({ code: 0 });
  });

  it.each(['device-state', 'page-chunks', 'pack'])(
    'are refused by every verb when the file %s is of another length, however long',
    async (which) => {
      const name = `long-${which}`;
      const dir = await storeGeneration(storeDir, name);
      const file = which === 'pack' ? path.basename(ownPack(dir)) : which;
      truncateSync(path.join(dir, file), 3 * 2 ** 40);
      const verbs = [
        ['check', name],
        ['show', name],
        ['restore', name],
        ['learn', name],
        ['export', name, path.join(storeDir, 'stream')],
        ['materialize', name],
        ['uffd', name, '--socket', path.join(storeDir, 'uffd.sock')],
      ];
      for (const args of verbs) {
        const { code, stdout, stderr } = await run(args);
        expect([args[0], code, stdout + stderr]).toEqual([
          args[0],
          13,
          expect.stringContaining(`${name}/1/${file} has ${3 * 2 ** 40} bytes, `),
        ]);
      }
      expect(await run(['rm', `${name}@1`])).toMatchObject({ code: 0 });
    },
  );

  it('are removed only when the generation is said', async () => {
    await storeGeneration(storeDir, 'old');
    expect(await run(['--json', 'rm', 'old'])).toMatchObject({ code: 2, json: { error: { code: 'USAGE' } } });
    expect(await run(['rm', 'old@1'])).toMatchObject({ code: 0, stdout: 'Removed old@1.\n' });
    expect(await run(['show', 'old'])).toMatchObject({ code: 10 });
  });

  it('are kept while a restored VM waits for their memory', async () => {
    const generationDir = await storeGeneration(storeDir, 'needed');
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    const folder = new VmFolder('needed');
    folder.create();
    folder.write({
      name: 'needed',
      generation: 1,
      generationDir,
      mode: 'lazy',
      version: 2,
      ramBytes: 4096,
      restoredAt: new Date().toISOString(),
      verb: deadProcess(),
      qemu: identifyProcess(process.pid)!,
      qmpSocket: folder.file('qmp.sock'),
    });
    folder.writeTransfer({ process: deadProcess(), status: 'serving' });
    const refused = await run(['--json', 'rm', 'needed@1']);
    expect(refused).toMatchObject({ code: 11, json: { error: { code: 'STORE_LOCKED' } } });
    expect(refused.stderr).toContain('transfer-lost');
    folder.writeTransfer({ process: deadProcess(), status: 'complete' });
    expect(await run(['rm', 'needed@1'])).toMatchObject({ code: 0 });
    folder.remove();
  });
});

describe('a store without a checkpoint', () => {
  const { run, storeDir } = cliSuite();

  it('is an empty list', async () => {
    mkdirSync(storeDir, { mode: 0o700 });
    expect(await run(['list'])).toMatchObject({ code: 0, stdout: '' });
    expect(await run(['--json', 'list'])).toMatchObject({ code: 0, json: { checkpoints: [] } });
    expect(await run(['--json', 'check'])).toMatchObject({ code: 0, json: { checks: [] } });
  });
});

describe.skipIf(!isRoot)('a store that cannot be used freely (made by root)', () => {
  const { run, storeDir, directory } = cliSuite();
  const mountPoint = path.join(directory, 'read-only');

  beforeAll(async () => {
    await storeGeneration(storeDir, 'web');
    mkdirSync(mountPoint);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=700', 'vmckpt-test', mountPoint]);
    cpSync(storeDir, mountPoint, { recursive: true });
    execFileSync('mount', ['-o', 'remount,ro', mountPoint]);
  });
  afterAll(() => execFileSync('umount', [mountPoint]));

  it('is read as usual on a read-only file system, and nothing is removed from it', async () => {
    const store = ['--json', '--store', mountPoint];
    expect(await run([...store, 'list'])).toMatchObject({ code: 0 });
    expect(await run([...store, 'show', 'web'])).toMatchObject({ code: 0 });
    expect(await run([...store, 'check', 'web'])).toMatchObject({ code: 0 });
    expect(await run([...store, 'rm', 'web@1'])).toMatchObject({
      code: 12,
      json: { error: { code: 'STORE_NOT_WRITABLE' } },
    });
  });

  it('is refused with a reason to who has no permission', async () => {
    chmodSync(storeDir, 0o000);
    try {
      for (const args of [['list'], ['show', 'web'], ['check']])
        expect(await run(['--json', ...args], { wrapper: WITHOUT_CAPABILITIES })).toMatchObject({
          code: 12,
          json: { error: { code: 'NOT_PERMITTED' } },
        });
    } finally {
      chmodSync(storeDir, 0o700);
    }
  });
});

function overwrite(file: string, offset: number, text: string): void {
  const { length } = readFileSync(file);
  const fd = openSync(file, 'r+');
  writeSync(fd, text, Math.min(offset, length - text.length));
  closeSync(fd);
}
