import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, truncateSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { holdGenerationFor } from '../../src/store/generation-use.js';
import { cliSuite, isRoot } from '../support/cli.js';
import { startCli, type RunningCli } from '../support/command.js';
import { untilParked } from '../support/faults.js';
import { storeGeneration } from '../support/stored.js';

/** 16 MiB of RAM, half of it data: more than is written in one step. */
const MANY_PAGES = 4_096;

describe('the raw memory file of a checkpoint', () => {
  const { run, storeDir, directory } = cliSuite();
  let dir: string;
  let largeDir: string;

  beforeAll(async () => {
    dir = await storeGeneration(storeDir, 'web');
    largeDir = await storeGeneration(storeDir, 'large', { pageCount: MANY_PAGES });
  });

  /** Whose file is begun. */
  async function startParked(name: string): Promise<RunningCli> {
    const args = ['--json', '--store', storeDir, 'materialize', name];
    const making = startCli(args, { env: { VMCKPT_PARK: 'materializing' } });
    await untilParked(making, 'materializing');
    return making;
  }

  function files(of: string): string[] {
    return readdirSync(of).filter((name) => name.includes('raw-memory'));
  }

  it('is missed by a restore that is to map it, which says how to make it', async () => {
    expect((await run(['list'])).stdout).toMatch(/^web .* - +running, not sealed by this user$/m);
    expect(await run(['--json', 'restore', '--mode', 'map', 'web'])).toMatchObject({
      code: 10,
      json: { error: { code: 'NO_RAW_MEMORY', hint: 'Make one: vmckpt materialize web@1' } },
    });
  });

  it('is made once, shown, listed and checked', async () => {
    expect((await run(['--json', 'materialize', 'web'])).json).toMatchObject({
      name: 'web',
      generation: 1,
      file: path.join(dir, 'raw-memory'),
      made: true,
      sizeBytes: 64 * 4096,
      storedBytes: 32 * 4096,
    });
    expect((await run(['materialize', 'web@1'])).stdout).toMatch(
      /^web@1 has its raw memory file: 256 KiB, 128 KiB of it on the disk, already\.$/m,
    );
    expect((await run(['list'])).stdout).toMatch(/^web .* 128 KiB +running, not sealed by this user$/m);
    expect((await run(['show', 'web'])).stdout).toMatch(/^Raw memory +256 KiB, 128 KiB of it on the disk$/m);
    expect((await run(['--json', 'show', 'web'])).json).toMatchObject({
      rawMemory: { sizeBytes: 64 * 4096, storedBytes: 32 * 4096, problem: null },
    });
    expect(await run(['check', 'web'])).toMatchObject({ code: 0 });
  });

  it('is reported when it has changed, and made again', async () => {
    truncateSync(path.join(dir, 'raw-memory'), 4096);
    expect((await run(['list'])).stdout).toMatch(/^web .* changed +running, not sealed by this user$/m);
    expect((await run(['show', 'web'])).stdout).toMatch(/^Raw memory .*4096 bytes, 262144 expected$/m);
    expect(await run(['check', 'web'])).toMatchObject({
      code: 13,
      stdout: expect.stringMatching(/^web@1: 1 problem\n {2}RAW_MEMORY_CHANGED: /) as string,
    });
    expect(await run(['--json', 'restore', '--mode', 'map', 'web'])).toMatchObject({
      code: 13,
      json: { error: { code: 'RAW_MEMORY_CHANGED' } },
    });
    const again = await run(['--json', 'materialize', 'web']);
    expect(again).toMatchObject({ code: 0, json: { made: true } });
    expect(again.stderr).toContain('Rebuilding the raw memory file');
    expect(await run(['check', 'web'])).toMatchObject({ code: 0 });
  });

  it('is not believed when its making was killed', async () => {
    const making = await startParked('large');
    making.kill('SIGKILL');
    expect((await making.ended).code).toBeNull();
    expect(files(largeDir)).toEqual(['.raw-memory.tmp']);
    expect(await run(['--json', 'restore', '--mode', 'map', 'large'])).toMatchObject({
      json: { error: { code: 'NO_RAW_MEMORY' } },
    });
    expect((await run(['--json', 'materialize', 'large'])).code).toBe(0);
    expect(files(largeDir)).toEqual(['raw-memory', 'raw-memory.json']);
    expect(await run(['check', 'large'])).toMatchObject({ code: 0 });
  });

  it('leaves nothing when its making is interrupted', async () => {
    const other = await storeGeneration(storeDir, 'interrupted', { pageCount: MANY_PAGES });
    const making = await startParked('interrupted');
    making.kill('SIGINT');
    making.kill('SIGCONT');
    expect(await making.ended).toMatchObject({ code: 130, json: { error: { code: 'INTERRUPTED' } } });
    expect(files(other)).toEqual([]);
  });

  it('is made by one process at a time, and its generation stays meanwhile', async () => {
    const use = holdGenerationFor('materialize', largeDir);
    try {
      expect(await run(['--json', 'materialize', 'large'])).toMatchObject({
        code: 11,
        json: {
          error: { code: 'STORE_LOCKED', message: expect.stringContaining(`${process.pid}`) as string },
        },
      });
      expect(await run(['rm', 'large@1'])).toMatchObject({ code: 11 });
    } finally {
      use.release();
    }
    expect(await run(['rm', 'large@1'])).toMatchObject({ code: 0 });
    expect(existsSync(largeDir)).toBe(false);
  });

  it.runIf(isRoot)('is refused where the disk has no room for it', async () => {
    const small = path.join(directory, 'small');
    mkdirSync(small);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=48m', 'vmckpt-test', small]);
    onTestFinished(() => void execFileSync('umount', [small]));
    const tight = await storeGeneration(small, 'tight', { pageCount: 16_384 });
    expect(await run(['--json', '--store', small, 'materialize', 'tight'])).toMatchObject({
      code: 1,
      json: {
        error: { code: 'NO_SPACE', message: expect.stringMatching(/needs 32\.0 MiB, .* are free/) as string },
      },
    });
    expect(files(tight)).toEqual([]);
  });

  it('is not to be had of bare memory', async () => {
    const file = path.join(directory, 'memory');
    execFileSync('truncate', ['-s', '64K', file]);
    expect(await run(['import', '--raw-memory', file, 'bare'])).toMatchObject({ code: 0 });
    expect(await run(['--json', 'materialize', 'bare'])).toMatchObject({
      code: 14,
      json: { error: { code: 'MEMORY_ONLY' } },
    });
    expect((await run(['check', 'bare'])).code).toBe(0);
  });
});
