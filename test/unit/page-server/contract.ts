/** What every store elsewhere does, whatever is between it and its folder. */
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { GENERATION_FILES, packFile } from '../../../src/checkpoint/format.js';
import { xxh3 } from '../../../src/native/index.js';
import {
  LANES,
  MAX_RANGE_BYTES,
  type Push,
  type RemoteStore,
  type SmallFile,
} from '../../../src/page-server/contracts.js';
import { format2Manifest } from '../../support/packs.js';
import { storeGeneration } from '../../support/stored.js';
import { flipExtents } from '../../support/damage.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

/** What stores elsewhere do differently, because nothing of ours runs at the other side. */
interface Abilities {
  /** Whether commit() verifies what has arrived. */
  readonly verifies: boolean;
  /** Whether what is open is not removed. */
  readonly holds: boolean;
  /** Whether less than a part of a file outlasts a push. */
  readonly keepsRemainders: boolean;
}

const OF_OURS: Abilities = { verifies: true, holds: true, keepsRemainders: true };

/** @param open a store elsewhere with the generations of a folder of this host as they are then */
export function describeRemoteStore(
  what: string,
  open: (storeDir: string) => Promise<RemoteStore>,
  { verifies, holds, keepsRemainders } = OF_OURS,
): void {
  describe(`${what}: the contract of a store elsewhere`, () => {
    let storeDir: string;
    let generationDir: string;

    beforeEach(async () => {
      storeDir = path.join(temporaryDir(), 'store');
      generationDir = await storeGeneration(storeDir, 'web');
    });

    async function opened(): Promise<RemoteStore> {
      const store = await open(storeDir);
      onTestFinished(() => store.close());
      return store;
    }

    test('lists its generations, with their ids', async () => {
      const store = await opened();
      const { id } = format2Manifest(generationDir);
      expect(await store.list()).toMatchObject([{ name: 'web', generation: 1, facts: { id } }]);
    });

    test('opens the newest generation, or the one named', async () => {
      const secondDir = await storeGeneration(storeDir, 'web');
      const store = await opened();
      for (const [reference, dir] of [
        ['web', secondDir],
        ['web@1', generationDir],
      ] as const) {
        const generation = await store.open(reference);
        expect(Buffer.from(generation.manifest)).toEqual(readFileSync(path.join(dir, 'manifest.json')));
        expect(`${generation.name}/${generation.number}`).toBe(path.relative(storeDir, dir));
        await generation.close();
      }
    });

    test.each(['web@2', 'db'])('there is no %s', async (reference) => {
      await expect((await opened()).open(reference)).rejects.toMatchObject({ code: 'NO_CHECKPOINT' });
    });

    test('reads small files, whole and in ranges', async () => {
      const generation = await (await opened()).open('web');
      const bytes = readFileSync(path.join(generationDir, GENERATION_FILES.deviceState));
      expect(generation.files.get('device-state')).toBe(bytes.length);
      expect(Buffer.from((await generation.readFile('device-state'))!)).toEqual(bytes);
      const part = await generation.readFile('device-state', { offset: 2, length: 3 });
      expect(Buffer.from(part!)).toEqual(bytes.subarray(2, 5));
      expect(await generation.readFile('working-set')).toBeUndefined();
      await generation.close();
    });

    test('replaces hints', async () => {
      const generation = await (await opened()).open('web');
      await generation.writeHint('working-set', Buffer.from('first and longer'));
      await generation.writeHint('working-set', Buffer.from('second'));
      expect(Buffer.from((await generation.readFile('working-set'))!).toString()).toBe('second');
      await generation.close();
    });

    test('reads ranges of the packs of an opened generation', async () => {
      const store = await opened();
      const [pack] = format2Manifest(generationDir).packs;
      const packId = pack!.id;
      const bytes = readFileSync(path.join(generationDir, packFile(packId)));
      expect(await store.have([packId, '0'.repeat(32)])).toEqual(new Set([packId]));
      await expect(
        store.read({ packId: '0'.repeat(32), offset: 0, length: 1 }, { lane: 'demand' }),
      ).rejects.toMatchObject({ code: 'NO_PACK' });
      const generation = await store.open('web');
      for (const lane of ['rest', 'predicted', 'demand'] as const)
        expect(Buffer.from(await store.read({ packId, offset: 4097, length: 9000 }, { lane }))).toEqual(
          bytes.subarray(4097, 13097),
        );
      const tooFar = { packId, offset: bytes.length - 1, length: 2 };
      await expect(store.read(tooFar, { lane: 'demand' })).rejects.toMatchObject({ code: 'EXTENT_DAMAGED' });
      await generation.close();
    });

    test('reads many ranges at once, and as many bytes as a range may have', async () => {
      const dir = await storeGeneration(storeDir, 'large', { pageCount: 8192 });
      const store = await opened();
      const generation = await store.open('large');
      const packId = format2Manifest(dir).packs[0]!.id;
      const bytes = readFileSync(path.join(dir, packFile(packId)));
      const length = Math.min(bytes.length, MAX_RANGE_BYTES);
      expect(length).toBeGreaterThan(1 << 20);
      const ranges = Array.from({ length: 300 }, (_, at) => ({ offset: at * 1000, length: 1 + at * 300 }));
      const reads = [...ranges, { offset: 0, length }].map(async (range, at) => {
        const found = await store.read({ packId, ...range }, { lane: LANES[at % LANES.length]! });
        expect(xxh3(found)).toBe(xxh3(bytes, range.offset, range.offset + range.length));
      });
      await Promise.all(reads);
      await generation.close();
      await expect(store.read({ packId, offset: 0, length }, { lane: 'rest' })).rejects.toMatchObject({
        code: 'NO_PACK',
      });
    });

    test('stops reading for a signal', async () => {
      const store = await opened();
      await store.open('web');
      const range = { packId: format2Manifest(generationDir).packs[0]!.id, offset: 0, length: 1 };
      const signal = AbortSignal.abort(new Error('no longer wanted'));
      await expect(store.read(range, { lane: 'demand', signal })).rejects.toThrow('no longer wanted');
    });

    test('a generation is removed', async () => {
      const store = await opened();
      await store.remove('web@1');
      await expect(store.open('web@1')).rejects.toMatchObject({ code: 'NO_CHECKPOINT' });
      await expect(store.remove('web@1')).rejects.toMatchObject({ code: 'NO_CHECKPOINT' });
      expect(await store.list()).toEqual([]);
    });

    test.runIf(holds)('an opened generation is not removed until it is closed', async () => {
      const store = await opened();
      const generation = await store.open('web@1');
      await expect(store.remove('web@1')).rejects.toMatchObject({ code: 'STORE_LOCKED' });
      await generation.close();
      await store.remove('web@1');
    });

    describe('a push', () => {
      let fromDir: string;

      beforeEach(async () => {
        fromDir = await storeGeneration(path.join(temporaryDir(), 'other'), 'db');
      });

      const identityOf = (dir: string, name = 'db', number = 3) => ({
        name,
        number,
        id: format2Manifest(dir).id,
      });

      test('makes a generation with the number that it had, and once more does nothing', async () => {
        const store = await opened();
        const push = await store.push(identityOf(fromDir));
        await putAll(push, fromDir);
        await push.commit();
        await push.commit();
        await push.close();
        await expectSame(store, 'db@3', fromDir);
        const again = await store.push(identityOf(fromDir));
        expect(again.isCommitted).toBe(true);
        await again.close();
      });

      test('goes on where an earlier one ended', async () => {
        const [pack] = format2Manifest(fromDir).packs;
        const file = packFile(pack!.id);
        const bytes = readFileSync(path.join(fromDir, file));
        const first = await (await opened()).push(identityOf(fromDir));
        await first.put(file, 0, bytes.subarray(0, 5000));
        expect(await first.receivedBytes(file)).toBe(5000);
        await first.close();
        const store = await opened();
        const second = await store.push(identityOf(fromDir));
        expect(second.isCommitted).toBe(false);
        expect(await second.receivedBytes(file)).toBe(keepsRemainders ? 5000 : 0);
        await putAll(second, fromDir);
        await second.commit();
        await second.close();
        await expectSame(store, 'db@3', fromDir);
      });

      test('takes packs from the generations that are there', async () => {
        mkdirSync(path.join(storeDir, 'copy'));
        cpSync(fromDir, path.join(storeDir, 'copy/1'), { recursive: true });
        const store = await opened();
        const push = await store.push(identityOf(fromDir));
        await putAll(
          push,
          fromDir,
          filesOf(fromDir).filter((file) => !file.startsWith('pack-')),
        );
        await push.commit();
        await push.close();
        await expectSame(store, 'db@3', fromDir);
      });

      test('without a pack that nothing has is refused', async () => {
        const push = await (await opened()).push(identityOf(fromDir));
        await putAll(
          push,
          fromDir,
          filesOf(fromDir).filter((file) => !file.startsWith('pack-')),
        );
        await expect(push.commit()).rejects.toMatchObject({ code: 'NO_PACK' });
        await push.close();
      });

      test.runIf(verifies)('of damaged extents is refused', async () => {
        const reader = await CheckpointReader.open(fromDir);
        flipExtents(fromDir, reader, [0]);
        reader.close();
        const store = await opened();
        const push = await store.push(identityOf(fromDir));
        await putAll(push, fromDir);
        await expect(push.commit()).rejects.toMatchObject({ code: 'EXTENT_DAMAGED' });
        await push.close();
        await expect(store.open('db@3')).rejects.toMatchObject({ code: 'NO_CHECKPOINT' });
      });

      test('of another generation with a number that is taken is refused', async () => {
        await expect((await opened()).push(identityOf(fromDir, 'web', 1))).rejects.toMatchObject({
          code: 'GENERATION_DIFFERS',
        });
      });

      test('by two at once is refused', async () => {
        const store = await opened();
        const push = await store.push(identityOf(fromDir));
        await expect(store.push(identityOf(fromDir))).rejects.toMatchObject({ code: 'STORE_LOCKED' });
        await push.close();
        await (await store.push(identityOf(fromDir))).close();
        rmSync(fromDir, { recursive: true });
      });

      test('of a file that no generation has is refused', async () => {
        const push = await (await opened()).push(identityOf(fromDir));
        await expect(push.put('../manifest.json', 0, Buffer.alloc(1))).rejects.toMatchObject({
          code: 'FAILED',
        });
        await push.close();
      });
    });
  });
}

function filesOf(dir: string): string[] {
  return readdirSync(dir).filter((file) => file !== 'working-set');
}

/** Puts what the push has not received yet. */
export async function putAll(push: Push, dir: string, files = filesOf(dir)): Promise<void> {
  for (const file of files) {
    const from = await push.receivedBytes(file);
    await push.put(file, from, readFileSync(path.join(dir, file)).subarray(from));
  }
}

/** The generation has the files of this folder, each with the same bytes. */
export async function expectSame(store: RemoteStore, reference: string, dir: string): Promise<void> {
  const generation = await store.open(reference);
  const small = filesOf(dir).filter((file) => !file.startsWith('pack-'));
  expect([...generation.files.keys()].sort()).toEqual(small);
  for (const file of small) {
    const found = await generation.readFile(file as SmallFile);
    expect(Buffer.from(found!)).toEqual(readFileSync(path.join(dir, file)));
  }
  for (const { id, fileBytes } of format2Manifest(dir).packs) {
    const bytes = readFileSync(path.join(dir, packFile(id)));
    for (let offset = 0; offset < fileBytes; offset += MAX_RANGE_BYTES) {
      const length = Math.min(MAX_RANGE_BYTES, fileBytes - offset);
      const found = await store.read({ packId: id, offset, length }, { lane: 'rest' });
      expect(xxh3(found)).toBe(xxh3(bytes, offset, offset + length));
    }
  }
  await generation.close();
}
