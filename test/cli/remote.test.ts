/** pull, push and replicate, between folders and through page servers. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { CACHE_FILES } from '../../src/page-server/cache-layout.js';
import type { PullReport } from '../../src/page-server/pull.js';
import type { PushReport } from '../../src/page-server/push.js';
import type { ReplicateReport } from '../../src/page-server/replicate.js';
import { cliSuite } from '../support/cli.js';
import { startCli } from '../support/command.js';
import { flipExtents } from '../support/damage.js';
import { storeGeneration } from '../support/stored.js';
import { until } from '../support/until.js';

const suite = cliSuite();
const cacheDir = path.join(suite.directory, 'cache');
let otherDir: string;
let count = 0;

beforeEach(() => {
  otherDir = path.join(suite.directory, `other-${++count}`);
});

afterAll(() => killFetcher('SIGTERM'));

function killFetcher(signal: NodeJS.Signals): void {
  const file = path.join(cacheDir, CACHE_FILES.lock);
  try {
    process.kill(Number(fs.readFileSync(file, 'latin1')), signal);
  } catch {
    // None runs.
  }
}

const pullOptions = () => ['--cache', cacheDir, '--from', otherDir];

/** The next generation of a guest at rest: nearly all of its packs are the same. */
function nextGeneration(of: string): void {
  const [dir, number] = [path.dirname(of), Number(path.basename(of))];
  execFileSync('cp', ['-al', of, path.join(dir, String(number + 1))]);
}

function expectSame(arrivedDir: string, fromDir: string): void {
  for (const file of fs.readdirSync(fromDir))
    expect(
      fs.readFileSync(path.join(arrivedDir, file)).equals(fs.readFileSync(path.join(fromDir, file))),
    ).toBe(true);
}

async function report<T>(args: readonly string[]): Promise<T> {
  const { code, stdout, stderr } = await suite.run(['--json', ...args]);
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as T;
}

describe('pull', () => {
  test('brings a generation with its number; once more does nothing', async () => {
    await storeGeneration(otherDir, 'a');
    const from = await storeGeneration(otherDir, 'a', { pageCount: 4096 });
    const first = await report<PullReport>(['pull', 'a', ...pullOptions()]);
    expect(first).toMatchObject({ name: 'a', generation: 2, isUnchanged: false });
    expect(first.receivedBytes).toBeGreaterThan(first.totalBytes);
    expectSame(path.join(suite.storeDir, 'a/2'), from);
    expect(await report(['pull', 'a@2', ...pullOptions()])).toMatchObject({
      isUnchanged: true,
      receivedBytes: 0,
    });
    expect((await suite.run(['check', 'a'])).code).toBe(0);
  });

  test('of the next generation of a guest at rest costs next to nothing, also without the cache', async () => {
    nextGeneration(await storeGeneration(otherDir, 'b', { pageCount: 65536 }));
    await report(['pull', 'b@1', ...pullOptions()]);
    const options = ['--cache', `${cacheDir}-2`, '--from', otherDir];
    const next = await report<PullReport>(['pull', 'b@2', ...options]);
    process.kill(Number(fs.readFileSync(path.join(`${cacheDir}-2`, CACHE_FILES.lock), 'latin1')));
    expect(next.receivedBytes / next.totalBytes).toBeLessThanOrEqual(0.05);
  });

  test('is refused where another generation has the number, and has another name with --into', async () => {
    const from = await storeGeneration(otherDir, 'c');
    await storeGeneration(suite.storeDir, 'c');
    const refused = await suite.run(['pull', 'c', ...pullOptions()]);
    expect(refused).toMatchObject({
      code: 14,
      stderr: expect.stringContaining('another generation') as string,
    });
    await report(['pull', 'c', '--into', 'copy', ...pullOptions()]);
    expectSame(path.join(suite.storeDir, 'copy/1'), from);
  });

  test('goes on with another fetcher when its own is killed', async () => {
    const from = await storeGeneration(otherDir, 'd', { pageCount: 65536 });
    const pulling = report(['pull', 'd', ...pullOptions()]);
    await until('the arrival', () => fs.existsSync(path.join(cacheDir, CACHE_FILES.stores)));
    killFetcher('SIGKILL');
    await pulling;
    expectSame(path.join(suite.storeDir, 'd/1'), from);
  });

  test('from a page server that is killed and comes back', async () => {
    const from = await storeGeneration(otherDir, 'i', { pageCount: 65536 });
    const address = `unix:${path.join(suite.directory, 'pages.sock')}`;
    const serve = async () => {
      const server = startCli(['--store', otherDir, 'serve', '--listen', address]);
      await until('the server', () => server.said() !== '');
      return server;
    };
    const first = await serve();
    const pulling = report<PullReport>(['pull', 'i', '--cache', cacheDir, '--from', address]);
    await until('the arrival', () =>
      fs
        .readdirSync(path.join(cacheDir, CACHE_FILES.stores))
        .some((key) => fs.existsSync(path.join(cacheDir, CACHE_FILES.stores, key, 'i/1'))),
    );
    first.kill();
    await first.ended;
    const second = await serve();
    await pulling;
    expectSame(path.join(suite.storeDir, 'i/1'), from);
    await storeGeneration(suite.storeDir, 'j');
    expect(await report(['push', 'j', address])).toMatchObject({ isUnchanged: false });
    expectSame(path.join(otherDir, 'j/1'), path.join(suite.storeDir, 'j/1'));
    second.kill('SIGTERM');
    await second.ended;
  });

  test('of extents that are damaged at the source is refused, and leaves nothing', async () => {
    const from = await storeGeneration(otherDir, 'e');
    const reader = await CheckpointReader.open(from);
    flipExtents(from, reader, [1]);
    reader.close();
    const refused = await suite.run(['pull', 'e', ...pullOptions()]);
    expect(refused).toMatchObject({ code: 13, stderr: expect.stringContaining('damaged extent') as string });
    expect(fs.existsSync(path.join(suite.storeDir, 'e/1'))).toBe(false);
    flipExtents(from, await CheckpointReader.open(from), [1]);
    await report(['pull', 'e', ...pullOptions()]);
    expectSame(path.join(suite.storeDir, 'e/1'), from);
  });

  test('into a cache that is too small is refused before anything is fetched', async () => {
    await storeGeneration(otherDir, 'f', { pageCount: 4096 });
    const refused = await suite.run(['pull', 'f', ...pullOptions(), '--cache-size', '1M']);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('--cache-size') as string });
    await report(['pull', 'f', ...pullOptions(), '--cache-size', '10G']);
  });
});

describe('push', () => {
  test('sends a generation with its number, and the next one costs next to nothing', async () => {
    const from = await storeGeneration(suite.storeDir, 'g', { pageCount: 65536 });
    nextGeneration(from);
    fs.mkdirSync(otherDir, { mode: 0o700 });
    const first = await report<PushReport>(['push', 'g@1', otherDir]);
    expect(first.sentBytes).toBeGreaterThan(first.totalBytes);
    expectSame(path.join(otherDir, 'g/1'), from);
    expect(await report(['push', 'g@1', otherDir])).toMatchObject({ isUnchanged: true, sentBytes: 0 });
  });
});

describe('replicate', () => {
  test('sends what is newer, and follows', async () => {
    await storeGeneration(suite.storeDir, 'h');
    fs.mkdirSync(otherDir, { mode: 0o700 });
    const once = await report<ReplicateReport>(['replicate', 'h', otherDir]);
    expect(once.replicated).toMatchObject([{ generation: 1 }]);
    const env = { VMCKPT_STORE: suite.storeDir, VMCKPT_RUNTIME_DIR: suite.runtimeDir };
    const following = startCli(['--json', 'replicate', '--follow', 'h', otherDir], { env });
    await storeGeneration(suite.storeDir, 'h');
    await until('the second generation', () => fs.existsSync(path.join(otherDir, 'h/2/manifest.json')));
    await storeGeneration(suite.storeDir, 'h');
    await until('the third generation', () => fs.existsSync(path.join(otherDir, 'h/3/manifest.json')));
    following.kill('SIGINT');
    const { code, stdout } = await following.ended;
    expect(code).toBe(0);
    const { replicated } = JSON.parse(stdout) as ReplicateReport;
    expect(replicated.map(({ generation }) => generation)).toEqual([2, 3]);
    for (const { lagMs } of replicated) expect(lagMs).toBeGreaterThan(0);
  });
});
