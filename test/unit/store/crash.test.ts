import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'rolldown';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { checkCheckpoint } from '../../../src/checkpoint/check.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { Store } from '../../../src/store/store.js';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';
import { manifestParts, syntheticPage, temporaryDir } from '../checkpoint/synthetic.js';

const ROUNDS = 12;
const isRoot = process.getuid?.() === 0;

/** The script as one file inside the package, where it finds what the package finds. */
const script = path.join(PACKAGE_ROOT, '.cache/test/writing-process.js');

beforeAll(async () => {
  await build({
    input: fileURLToPath(new URL('./writing-process.ts', import.meta.url)),
    platform: 'node',
    external: [/^zstd-napi/],
    logLevel: 'silent',
    output: { file: script, format: 'esm', codeSplitting: false },
  });
});

/** Runs writing-process.ts; it dies with the test. */
function startWriting(task: 'generations' | 'wide' | 'rewritten', dir: string): ChildProcess {
  const child = spawn(process.execPath, [script, task, dir], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

/** What the script says first; an error when it ends without a word. */
async function firstOutput(child: ChildProcess, exited: Promise<unknown>): Promise<string> {
  const silent = exited.then(() => {
    throw new Error('the script has ended without saying anything');
  });
  const [text] = (await Promise.race([once(child.stdout!, 'data'), silent])) as [Buffer];
  return text.toString();
}

describe('a writer killed at any moment', () => {
  it(`leaves whole generations only, ${ROUNDS} times`, { timeout: 120_000 }, async () => {
    const store = await Store.openOrCreate(path.join(temporaryDir(), 'store'));
    const seed = Date.now() % 100_000;
    let state = seed;
    for (let round = 0; round < ROUNDS; round++) {
      const child = startWriting('generations', store.dir);
      const exited = once(child, 'exit');
      await firstOutput(child, exited);
      state = (state * 48271) % 0x7fff_ffff;
      await sleep(state % 400);
      child.kill('SIGKILL');
      await exited;
      const [newest] = (await store.list()).slice(-1);
      if (newest === undefined) continue;
      const { dir } = await store.locate('web');
      const { problems } = await checkCheckpoint(dir);
      expect({ seed, round, problems, newest: newest.problem }).toEqual({
        seed,
        round,
        problems: [],
        newest: undefined,
      });
    }
    // The next writer clears away what the last one left.
    await (await store.begin('web')).abort();
    const generations = (await store.generations('web')).map(String);
    const left = generations.length === 0 ? readdirSync(store.dir) : readdirSync(path.join(store.dir, 'web'));
    expect(left.sort()).toEqual(generations.length === 0 ? [] : [...generations, 'lock'].sort());
  });
});

describe('a full disk', () => {
  it.skipIf(!isRoot)(
    'fails the save with a hint and leaves no trace of it (needs root to mount)',
    async () => {
      const mountPoint = path.join(temporaryDir(), 'small');
      mkdirSync(mountPoint);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', mountPoint]);
      onTestFinished(() => void execFileSync('umount', [mountPoint]));
      const store = await Store.openOrCreate(mountPoint);
      const layout = new RamLayout([{ name: 'pc.ram', usedBytes: 8192 * PAGE_BYTES }]);
      const pending = await store.begin('web');
      const writer = CheckpointWriter.create(pending.dir, { layout, level: 1 });
      const fill = async (): Promise<void> => {
        for (let page = 0; page < 8192; page++) {
          writer.data(page, syntheticPage(page * 4), 0);
          if (page % 256 === 255) await writer.ready();
        }
        await writer.finish(manifestParts(), new Uint8Array(10));
      };
      await expect(fill()).rejects.toMatchObject({
        code: 'NO_SPACE',
        hint: expect.stringContaining('Free space') as string,
      });
      await writer.abort();
      await pending.abort();
      expect(readdirSync(mountPoint)).toEqual([]);
    },
  );
});

/** What a script that writes one generation leaves, having had less than 200 MB of memory at any time. */
async function writtenWithin200Mb(task: 'wide' | 'rewritten'): Promise<CheckpointReader> {
  const dir = path.join(temporaryDir(), 'generation');
  mkdirSync(dir);
  const child = startWriting(task, dir);
  const exited = once(child, 'exit');
  const text = await firstOutput(child, exited);
  await exited;
  expect(Number(text)).toBeLessThan(200e6);
  const reader = await CheckpointReader.open(dir);
  onTestFinished(() => reader.close());
  return reader;
}

describe('memory', () => {
  it(
    'stays below 200 MB while 1 GiB of data is written all over 64 GiB of RAM',
    { timeout: 300_000 },
    async () => {
      const reader = await writtenWithin200Mb('wide');
      expect(reader.manifest.pages).toMatchObject({
        dataPageCount: 2 ** 18,
        zeroPageCount: 2 ** 24 - 2 ** 18,
      });
    },
  );

  it('stays below 200 MB while pages are rewritten, and keeps little of what is superseded', async () => {
    const reader = await writtenWithin200Mb('rewritten');
    const { dataPageCount, supersededPageCount } = reader.manifest.pages;
    expect(dataPageCount).toBe(2 ** 17);
    expect(supersededPageCount).toBeLessThanOrEqual(dataPageCount / 10);
  });
});
