/** Generations from elsewhere arrive in the cache, by the real fetcher process. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { packFile, packParts } from '../../../src/checkpoint/format.js';
import { CACHE_FILES, PRESENT_SUFFIX, encodeWant } from '../../../src/page-server/cache-layout.js';
import { ArrivingGeneration, type ArrivingOptions } from '../../../src/page-server/fetcher/client.js';
import type { Status } from '../../../src/page-server/fetcher/messages.js';
import { flipExtents } from '../../support/damage.js';
import { format2Manifest } from '../../support/packs.js';
import { storeGeneration } from '../../support/stored.js';
import { until } from '../../support/until.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

let dir: string;
let storeDir: string;
let cacheDir: string;
let generationDir: string;

beforeEach(async () => {
  dir = temporaryDir();
  storeDir = path.join(dir, 'store');
  cacheDir = path.join(dir, 'cache');
  generationDir = await storeGeneration(storeDir, 'web', { pageCount: 4096 });
  onTestFinished(() => killFetcher('SIGTERM'));
});

async function attach(options: Partial<ArrivingOptions> = {}): Promise<ArrivingGeneration> {
  const arriving = await ArrivingGeneration.attach({
    cacheDir,
    reference: 'web',
    sources: [storeDir],
    ...options,
  });
  onTestFinished(() => arriving.close());
  return arriving;
}

function killFetcher(signal: NodeJS.Signals): void {
  const file = path.join(cacheDir, CACHE_FILES.lock);
  const pid = fs.existsSync(file) ? Number(fs.readFileSync(file, 'latin1')) : 0;
  try {
    if (pid > 0) process.kill(pid, signal);
  } catch {
    // It has ended.
  }
}

function status(
  arriving: ArrivingGeneration,
  what: string,
  isMeant: (status: Status) => boolean,
): Promise<Status> {
  return until(what, () => {
    const { status: now } = arriving;
    return now !== undefined && isMeant(now) ? now : undefined;
  });
}

const complete = (arriving: ArrivingGeneration) =>
  status(arriving, 'all of it', ({ isComplete }) => isComplete);

function presentFiles(of: string): string[] {
  return fs.readdirSync(of).filter((file) => file.endsWith(PRESENT_SUFFIX));
}

function expectSame(arrivedDir: string, fromDir = generationDir): void {
  for (const file of fs.readdirSync(fromDir))
    expect(
      fs.readFileSync(path.join(arrivedDir, file)).equals(fs.readFileSync(path.join(fromDir, file))),
    ).toBe(true);
}

describe('a generation that arrives', () => {
  test('can be opened at once, with packs of full length, and is an ordinary one when all of it is here', async () => {
    const arriving = await attach();
    expect(arriving.dir.startsWith(path.join(cacheDir, CACHE_FILES.stores))).toBe(true);
    expect(presentFiles(arriving.dir)).toHaveLength(1);
    const reader = await CheckpointReader.open(arriving.dir);
    reader.close();
    arriving.fill();
    await complete(arriving);
    expect(presentFiles(arriving.dir)).toEqual([]);
    expect(presentFiles(path.join(cacheDir, CACHE_FILES.packs))).toEqual([]);
    expectSame(arriving.dir);
  });

  test('brings what is demanded through the FIFO', async () => {
    const arriving = await attach();
    const [pack] = format2Manifest(generationDir).packs;
    const file = path.join(arriving.dir, packFile(pack!.id));
    const range = { offset: 40 * 4096, length: 3 * 4096 };
    const bytes = () => fs.readFileSync(file).subarray(range.offset, range.offset + range.length);
    const original = fs.readFileSync(path.join(generationDir, packFile(pack!.id)));
    expect(bytes().every((byte) => byte === 0)).toBe(true);
    fs.appendFileSync(
      path.join(cacheDir, CACHE_FILES.wants),
      encodeWant({ packId: pack!.id, ...range, lane: 'demand', isAgain: false }),
    );
    await until('the range', () =>
      bytes().equals(original.subarray(range.offset, range.offset + range.length)),
    );
  });

  test('goes on with another fetcher when its own is killed', async () => {
    const arriving = await attach();
    killFetcher('SIGKILL');
    arriving.fill();
    await complete(arriving);
    expectSame(arriving.dir);
  });

  test('is there without its source once it was attached', async () => {
    const arriving = await attach();
    arriving.fill();
    await complete(arriving);
    arriving.close();
    fs.renameSync(storeDir, `${storeDir}-away`);
    fs.mkdirSync(storeDir, { mode: 0o700 });
    const again = await attach({ dir: arriving.dir });
    expect((await complete(again)).receivedBytes).toBe(0);
  });

  test('shares packs with the generation before it', async () => {
    const first = await attach();
    first.fill();
    await complete(first);
    const nextDir = path.join(storeDir, 'web/2');
    execFileSync('cp', ['-al', generationDir, nextDir]);
    const second = await attach({ reference: 'web@2' });
    expect((await complete(second)).receivedBytes).toBeLessThan(100_000);
    const [pack] = format2Manifest(generationDir).packs;
    const inodeIn = (of: string) => fs.statSync(path.join(of, packFile(pack!.id))).ino;
    expect(inodeIn(second.dir)).toBe(inodeIn(first.dir));
  });
});

describe('replicas', () => {
  let replicaDir: string;

  beforeEach(() => {
    replicaDir = path.join(dir, 'replica');
    fs.cpSync(storeDir, replicaDir, { recursive: true });
  });

  test('a damaged extent of one is fetched from the other, and the damage is named', async () => {
    const reader = await CheckpointReader.open(generationDir);
    flipExtents(
      generationDir,
      reader,
      Array.from({ length: reader.extentCount }, (_, extent) => extent),
    );
    reader.close();
    const arriving = await attach({ sources: [storeDir, replicaDir] });
    arriving.fill();
    const { damage } = await complete(arriving);
    expect(damage.join()).toContain(`${storeDir} has sent a damaged extent`);
    expectSame(arriving.dir, path.join(replicaDir, 'web/1'));
  });

  test('a damaged index of one is fetched from the other', async () => {
    const [pack] = format2Manifest(generationDir).packs;
    const file = path.join(generationDir, packFile(pack!.id));
    const bytes = fs.readFileSync(file);
    bytes[packParts(pack!).recordsOffset + 100]! ^= 1;
    fs.writeFileSync(file, bytes);
    const arriving = await attach({ sources: [storeDir, replicaDir] });
    arriving.fill();
    await complete(arriving);
    expectSame(arriving.dir, path.join(replicaDir, 'web/1'));
  });

  test('one with another content under the same name is refused', async () => {
    fs.rmSync(replicaDir, { recursive: true });
    await storeGeneration(replicaDir, 'web', { pageCount: 4096 });
    const arriving = await attach({ sources: [storeDir, replicaDir] });
    const { sources } = await status(arriving, 'a status', () => true);
    expect(sources.map(({ problem }) => problem ?? '')).toEqual([
      '',
      expect.stringContaining('another generation'),
    ]);
    arriving.fill();
    await complete(arriving);
    expectSame(arriving.dir);
  });

  test('damage that all of them have is named, and the pack does not become an ordinary one', async () => {
    for (const of of [generationDir, path.join(replicaDir, 'web/1')]) {
      const reader = await CheckpointReader.open(of);
      flipExtents(of, reader, [3]);
      reader.close();
    }
    const arriving = await attach({ sources: [storeDir, replicaDir] });
    arriving.fill();
    const now = await status(
      arriving,
      'everything that can come',
      (one) => one.presentBytes === one.totalBytes,
    );
    expect(now).toMatchObject({ isComplete: false, damage: [expect.any(String), expect.any(String)] });
    expect(presentFiles(arriving.dir)).toHaveLength(1);
  });
});

test('a full cache loses the generation that was not used for the longest time, and never one in use', async () => {
  const names = ['web', 'b', 'c'];
  for (const name of names.slice(1)) await storeGeneration(storeDir, name, { pageCount: 4096 });
  const { fileBytes } = format2Manifest(generationDir).pages;
  // Room for two of them.
  const cacheBytes = Math.ceil(2.5 * fileBytes);
  const dirs: string[] = [];
  for (const name of names.slice(0, 2)) {
    const arriving = await attach({ reference: name, cacheBytes });
    arriving.fill();
    await complete(arriving);
    dirs.push(arriving.dir);
    // The second one stays in use.
    if (name === 'web') arriving.close();
  }
  const third = await attach({ reference: 'c', cacheBytes });
  expect(dirs.map((of) => fs.existsSync(of))).toEqual([false, true]);
  await expect(attach({ reference: 'web', cacheBytes })).rejects.toMatchObject({ code: 'NO_SPACE' });
  third.close();
});
