/** A store in a bucket of a real engine. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { parseBucketAddress } from '../../../src/page-server/s3/address.js';
import { Bucket } from '../../../src/page-server/s3/bucket.js';
import { S3Store } from '../../../src/page-server/s3/store.js';
import { MIN_PART_BYTES } from '../../../src/page-server/s3/upload.js';
import { packFile } from '../../../src/checkpoint/format.js';
import { Store } from '../../../src/store/store.js';
import { startCli } from '../../support/command.js';
import { format2Manifest } from '../../support/packs.js';
import { startObjectGateway, type ObjectGateway } from '../../support/rgw.js';
import { storeGeneration } from '../../support/stored.js';
import { describeOnCeph, suiteDirectory } from '../../support/vitest.js';
import { temporaryDir } from '../checkpoint/synthetic.js';
import { describeRemoteStore, expectSame, putAll } from './contract.js';

const BUCKET = 'checkpoints';
const GRACE_MS = 24 * 3600 * 1000;

describeOnCeph('a store in a bucket', () => {
  const dir = suiteDirectory();
  let gateway: ObjectGateway | undefined;
  let prefixes = 0;

  beforeAll(async () => {
    gateway = await startObjectGateway(dir);
    for (const [name, value] of Object.entries(gateway.environment)) vi.stubEnv(name, value);
    const client = new S3Client({ region: 'us-east-1', forcePathStyle: true });
    await client.send(new CreateBucketCommand({ Bucket: BUCKET }));
    client.destroy();
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await gateway?.close();
  });

  const newAddress = () => `s3://${BUCKET}/some/prefix-${++prefixes}`;

  async function openStore(address: string): Promise<S3Store> {
    const store = await S3Store.open(address, { partBytes: MIN_PART_BYTES });
    onTestFinished(() => store.close());
    return store;
  }

  /** Each folder has a prefix of its own, with the generations that it has when it is first asked for. */
  const addresses = new Map<string, string>();
  describeRemoteStore(
    'a bucket',
    async (storeDir) => {
      const known = addresses.get(storeDir);
      const address = known ?? newAddress();
      addresses.set(storeDir, address);
      const store = await S3Store.open(address);
      if (known === undefined) await pushFolder(store, storeDir);
      return store;
    },
    { verifies: false, holds: false, keepsRemainders: false },
  );

  async function pushFolder(store: S3Store, storeDir: string): Promise<void> {
    const folder = await Store.open(storeDir);
    for (const name of await folder.names())
      for (const number of await folder.generations(name))
        await pushDir(store, path.join(storeDir, name, String(number)));
  }

  /** @param generationDir .../NAME/NUMBER */
  async function pushDir(store: S3Store, generationDir: string): Promise<void> {
    const [name, number] = generationDir.split('/').slice(-2);
    const push = await store.push({ name: name!, number: Number(number), id: idOf(generationDir) });
    await putAll(push, generationDir);
    await push.commit();
    await push.close();
  }

  const idOf = (generationDir: string) => format2Manifest(generationDir).id;
  const storeDir = () => path.join(temporaryDir(), 'store');

  async function rawBucket(address: string): Promise<Bucket> {
    const bucket = await Bucket.open(parseBucketAddress(address));
    onTestFinished(() => bucket.close());
    return bucket;
  }

  const keysOf = async (address: string) => (await (await rawBucket(address)).list('')).map(({ key }) => key);

  test('leaves nothing but the generation', async () => {
    const address = newAddress();
    const generationDir = await storeGeneration(storeDir(), 'web');
    await pushDir(await openStore(address), generationDir);
    const { id, packs } = format2Manifest(generationDir);
    expect(await keysOf(address)).toEqual([
      `checkpoints/web/1/${id}/device-state`,
      `checkpoints/web/1/${id}/page-chunks`,
      'checkpoints/web/1/manifest.json',
      `packs/${packs[0]!.id}`,
    ]);
  });

  describe('a large pack', () => {
    test('goes on with the parts that are there', async () => {
      const address = newAddress();
      const generationDir = await storeGeneration(storeDir(), 'web', { pageCount: 16384 });
      const { id, packs } = format2Manifest(generationDir);
      const file = packFile(packs[0]!.id);
      const bytes = readFileSync(path.join(generationDir, file));
      expect(bytes.length).toBeGreaterThan(2 * MIN_PART_BYTES);
      const first = await (await openStore(address)).push({ name: 'web', number: 1, id });
      await first.put(file, 0, bytes.subarray(0, MIN_PART_BYTES + 1000));
      await first.close();
      const store = await openStore(address);
      expect(await store.have([packs[0]!.id])).toEqual(new Set());
      const second = await store.push({ name: 'web', number: 1, id });
      expect(await second.receivedBytes(file)).toBe(MIN_PART_BYTES);
      await putAll(second, generationDir);
      await second.commit();
      await second.close();
      await expectSame(store, 'web@1', generationDir);
    });
  });

  test('of ten writers of different generations one wins, and the others are told by name', async () => {
    const address = newAddress();
    const dirs = await Promise.all(Array.from({ length: 10 }, () => storeGeneration(storeDir(), 'web')));
    const stores = await Promise.all(dirs.map(() => openStore(address)));
    const results = await Promise.allSettled(dirs.map((each, at) => pushDir(stores[at]!, each)));
    const won = results.flatMap(({ status }, at) => (status === 'fulfilled' ? [dirs[at]!] : []));
    expect(won).toHaveLength(1);
    for (const result of results)
      if (result.status === 'rejected')
        expect(['STORE_LOCKED', 'GENERATION_DIFFERS']).toContain((result.reason as { code: string }).code);
    await expectSame(stores[0]!, 'web@1', won[0]!);
  });

  test('a lease that was not renewed is taken over, once', async () => {
    const address = newAddress();
    const generationDir = await storeGeneration(storeDir(), 'web');
    const identity = { name: 'web', number: 1, id: idOf(generationDir) };
    const [store, other] = [await openStore(address), await openStore(address)];
    const abandoned = await store.push(identity);
    await expect(other.push(identity)).rejects.toMatchObject({ code: 'STORE_LOCKED' });
    // The engine's clock counts, not that of this host.
    const nowMs = Date.now() + 10 * 60_000;
    vi.spyOn(Bucket.prototype, 'nowMs', 'get').mockReturnValue(nowMs);
    const results = await Promise.allSettled([other.push(identity), other.push(identity)]);
    vi.restoreAllMocks();
    expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    await abandoned.close();
  });

  test('an engine that ignores conditions is named, and nothing is written', async () => {
    const address = newAddress();
    vi.spyOn(Bucket.prototype, 'create').mockImplementation(async function (this: Bucket, key, content) {
      await this.write(key, content);
      return true;
    });
    const store = await openStore(address);
    const identity = { name: 'web', number: 1, id: '0'.repeat(32) };
    await expect(store.push(identity)).rejects.toMatchObject({ code: 'S3_UNCONDITIONAL' });
    vi.restoreAllMocks();
    expect(await keysOf(address)).toEqual([]);
  });

  test('a pack that is cut short is named before the generation appears', async () => {
    const address = newAddress();
    const generationDir = await storeGeneration(storeDir(), 'web');
    const { id, packs } = format2Manifest(generationDir);
    await (await rawBucket(address)).write(`packs/${packs[0]!.id}`, Buffer.alloc(100));
    const store = await openStore(address);
    const push = await store.push({ name: 'web', number: 1, id });
    await putAll(push, generationDir, ['manifest.json', 'device-state', 'page-chunks']);
    await expect(push.commit()).rejects.toMatchObject({ code: 'EXTENT_DAMAGED' });
    await push.close();
    expect(await store.list()).toEqual([]);
  });

  describe('prune', () => {
    test('keeps what is younger than the grace period, and what generations share', async () => {
      const address = newAddress();
      const [dir1, dir2] = [
        await storeGeneration(storeDir(), 'web'),
        await storeGeneration(storeDir(), 'db'),
      ];
      const store = await openStore(address);
      await pushDir(store, dir1);
      await pushDir(store, dir2);
      const generation = await store.open('web@1');
      await store.remove('web@1');
      expect(await store.deleteUnneeded(GRACE_MS)).toEqual({ packs: 0, bytes: 0 });
      // What was open is still there.
      const [pack] = format2Manifest(dir1).packs;
      await store.read({ packId: pack!.id, offset: 0, length: 10 }, { lane: 'demand' });
      expect(await generation.readFile('device-state')).toBeDefined();
      const later = await keysOf(address);
      expect(later.filter((key) => key.startsWith('removed/'))).toHaveLength(1);
      await expect(store.deleteUnneeded(-60_000)).resolves.toMatchObject({ packs: 1 });
      expect((await keysOf(address)).filter((key) => /web|removed/.test(key))).toEqual([]);
      await expectSame(store, 'db@1', dir2);
    });

    test('is refused while a generation is pushed, and the other way round', async () => {
      const address = newAddress();
      const store = await openStore(address);
      const identity = { name: 'web', number: 1, id: '0'.repeat(32) };
      const push = await store.push(identity);
      await expect(store.deleteUnneeded(GRACE_MS)).rejects.toMatchObject({ code: 'STORE_LOCKED' });
      await push.close();
      await (await rawBucket(address)).write('pruning/1', Buffer.from('process 7 on elsewhere\n'));
      await expect(store.push(identity)).rejects.toThrow('is being pruned by process 7 on elsewhere');
    });

    test('ends uploads that nothing goes on with', async () => {
      const address = newAddress();
      const store = await openStore(address);
      const push = await store.push({ name: 'web', number: 1, id: '0'.repeat(32) });
      await push.put(packFile('1'.repeat(32)), 0, Buffer.alloc(MIN_PART_BYTES));
      await push.close();
      const bucket = await rawBucket(address);
      expect(await bucket.uploads('')).toHaveLength(1);
      await store.deleteUnneeded(GRACE_MS);
      expect(await bucket.uploads('')).toHaveLength(1);
      await store.deleteUnneeded(-60_000);
      expect(await bucket.uploads('')).toEqual([]);
    });
  });

  test('the verbs take its address', async () => {
    const address = newAddress();
    const store = await openStore(address);
    const dir = storeDir();
    for (let number = 1; number <= 3; number++) await pushDir(store, await storeGeneration(dir, 'web'));
    const run = async (...args: string[]) =>
      (await startCli([...args, '--store', address, '--json']).ended).json;
    expect(await run('list')).toMatchObject({
      checkpoints: [3, 2, 1].map((generation) => ({ name: 'web', generation })),
    });
    expect(await run('show', 'web@2')).toMatchObject({ name: 'web', generation: 2 });
    expect(await run('rm', 'web@2')).toEqual({ removed: 'web@2' });
    expect(await run('prune', '--keep-last', '1')).toMatchObject({
      removed: [{ name: 'web', generation: 1 }],
      freedBytes: 0,
    });
    expect(await store.list()).toMatchObject([{ name: 'web', generation: 3 }]);
    expect(await run('rm', 'web@2')).toMatchObject({ error: { code: 'NO_CHECKPOINT' } });
  });

  describe('failures are told apart', () => {
    test('a bucket that is not there', async () => {
      const store = await openStore('s3://no-such-bucket/web');
      await expect(store.list()).rejects.toMatchObject({ code: 'NO_STORE' });
    });

    test('credentials that are wrong', async () => {
      vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'another');
      const store = await openStore(newAddress());
      await expect(store.list()).rejects.toMatchObject({ code: 'NOT_PERMITTED' });
      vi.stubEnv('AWS_SECRET_ACCESS_KEY', gateway!.environment['AWS_SECRET_ACCESS_KEY']);
    });

    test('an engine that does not answer, and a store that is closed', async () => {
      vi.stubEnv('AWS_ENDPOINT_URL', 'http://127.0.0.1:9');
      const store = await openStore(newAddress());
      await expect(store.list()).rejects.toMatchObject({ code: 'SOURCE_UNAVAILABLE' });
      vi.stubEnv('AWS_ENDPOINT_URL', gateway!.endpoint);
      const other = await openStore(newAddress());
      const listing = other.list();
      await other.close();
      await expect(listing).rejects.toMatchObject({ code: 'SOURCE_UNAVAILABLE' });
    });
  });
});
