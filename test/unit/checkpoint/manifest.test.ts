import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { checkCheckpoint } from '../../../src/checkpoint/check.js';
import { encodeManifest, readManifest, type Manifest } from '../../../src/checkpoint/manifest.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { xxh3 } from '../../../src/native/index.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { manifestParts, syntheticPage, temporaryDir } from './synthetic.js';
import { coreFiles, ownPack } from '../../support/packs.js';

let dir: string;
let written: Manifest;

beforeEach(async () => {
  dir = temporaryDir();
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: 1024 * PAGE_BYTES }]);
  const writer = CheckpointWriter.create(dir, { layout, level: 1 });
  for (let page = 0; page < 1000; page++) {
    writer.data(page, syntheticPage(page), 0);
    if (page % 256 === 0) await writer.ready();
  }
  written = await writer.finish(manifestParts(), new Uint8Array(1000).fill(3));
});

/** Writes the manifest with other fields and a checksum that fits. */
function rewrite(change: (fields: Record<string, unknown>) => void): void {
  const file = path.join(dir, 'manifest.json');
  const fields = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  delete fields['manifestXxh3'];
  change(fields);
  const covered = JSON.stringify(fields, undefined, 2).replace(/\n\}$/, ',\n');
  const checksum = xxh3(Buffer.from(covered)).toString(16).padStart(16, '0');
  writeFileSync(file, `${covered}  "manifestXxh3": "${checksum}"\n}\n`);
}

type Tree = Record<string, unknown>;

/** Where an object has texts. */
function leavesOf(value: unknown, place: readonly string[] = []): string[][] {
  if (typeof value === 'string') return [[...place]];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => leavesOf(inner, [...place, key]));
}

function withNul(manifest: object, place: readonly string[]): Tree {
  const copy = structuredClone(manifest) as Tree;
  const last = place.at(-1)!;
  const parent = place.slice(0, -1).reduce<Tree>((inner, key) => inner[key] as Tree, copy);
  parent[last] = `${String(parent[last])}\0-netdev`;
  return copy;
}

describe('a manifest', () => {
  it('is JSON that says what was written', () => {
    expect(JSON.parse(readFileSync(path.join(dir, 'manifest.json'), 'utf8'))).toMatchObject(written);
    expect(readManifest(dir)).toEqual(written);
  });

  it('has an identity of its own', async () => {
    expect(written.id).toMatch(/^[0-9a-f]{32}$/);
    const other = temporaryDir();
    const layout = new RamLayout([{ name: 'pc.ram', usedBytes: PAGE_BYTES }]);
    const writer = CheckpointWriter.create(other, { layout, level: 1 });
    expect((await writer.finish(manifestParts(), new Uint8Array(1))).id).not.toBe(written.id);
  });

  it('of an earlier version has the identity that follows from its checksum', () => {
    rewrite((fields) => delete fields['id']);
    const [, checksum] = /"manifestXxh3": "(\w+)"/.exec(
      readFileSync(path.join(dir, 'manifest.json'), 'utf8'),
    )!;
    expect(readManifest(dir)).toEqual({ ...written, id: checksum!.padStart(32, '0') });
  });

  it('may have fields that this version does not know', () => {
    rewrite((fields) => (fields['invented'] = { later: true }));
    expect(readManifest(dir)).toEqual(written);
  });

  it('of a later format version is refused as such, not as damage', () => {
    rewrite((fields) => (fields['formatVersion'] = 3));
    expect(() => readManifest(dir)).toThrow(expect.objectContaining({ code: 'FORMAT_UNSUPPORTED' }) as Error);
  });

  it('with a NUL in any of its texts is damaged: it would end an argument', () => {
    const process = {
      ...{ executable: 'x', uid: 0, gid: 0, groups: [], bootId: 'x', places: { x: 'x' }, elsewhere: ['x'] },
      ...{ cgroup: 'x', taps: [{ name: 'x', persistent: true }], lostImages: ['x'] },
    };
    const more = {
      ...{ process, vmState: 'x', lost: ['x'], workingDirectory: 'x', commandLine: ['-name', 'x'] },
      restoreProblems: [{ code: 'x', message: 'x' }],
      settings: [{ kind: 'x', id: 'x', name: 'x', value: 'x' }],
      blockDevices: [{ node: 'x', file: 'x', format: 'x', readOnly: true }],
      devices: [{ qomPath: 'x', type: 'x' }],
      memoryBackends: [{ id: 'x', sizeBytes: 1, share: false }],
    };
    rewrite((fields) => Object.assign(fields, more));
    const whole = readManifest(dir);
    const places = leavesOf(whole);
    expect(places.length).toBeGreaterThan(30);
    for (const place of places) {
      rewrite((fields) => Object.assign(fields, structuredClone(whole), withNul(whole, place)));
      expect(() => readManifest(dir), place.join('.')).toThrow(
        expect.objectContaining({ code: 'MANIFEST_DAMAGED' }) as Error,
      );
    }
  });

  it('that makes no sense is named by its field', () => {
    rewrite((fields) => (fields['runState'] = 'dreaming'));
    expect(() => readManifest(dir)).toThrow(/runState/);
  });

  it('that is missing, with any other file, makes the generation a damaged one', async () => {
    for (const file of coreFiles(dir)) {
      const bytes = readFileSync(path.join(dir, file));
      rmSync(path.join(dir, file));
      await expect(CheckpointReader.open(dir)).rejects.toMatchObject({
        code: 'FILE_MISSING',
        kind: 'damaged',
        message: expect.stringContaining(`"${file}"`) as string,
      });
      writeFileSync(path.join(dir, file), bytes);
    }
    const reader = await CheckpointReader.open(dir);
    rmSync(path.join(dir, 'device-state'));
    await expect(reader.deviceState()).rejects.toMatchObject({ code: 'FILE_MISSING' });
    reader.close();
  });

  it('refuses to be written with a field out of bounds', () => {
    expect(() => encodeManifest({ ...written, generation: 0 })).toThrow();
  });
});

describe('checkCheckpoint', () => {
  it('finds nothing wrong with what was just written, and tells how far it is', async () => {
    const progress: number[] = [];
    const report = await checkCheckpoint(dir, { onProgress: (done) => progress.push(done) });
    expect(report).toMatchObject({ pageCount: 1024, extentCount: 125, problems: [], problemCount: 0 });
    expect(progress.at(-1)).toBe(written.pages.fileBytes);
  });

  it('lists every damaged extent and the device state, not only the first', async () => {
    const reader = await CheckpointReader.open(dir);
    const pages = readFileSync(ownPack(dir));
    for (const extent of [3, 70, 71]) pages[reader.extentInfo(extent).offset]! ^= 1;
    reader.close();
    writeFileSync(ownPack(dir), pages);
    writeFileSync(path.join(dir, 'device-state'), new Uint8Array(1000));
    const { problems } = await checkCheckpoint(dir);
    expect(problems.map(({ code }) => code)).toEqual([
      'DEVICE_STATE_DAMAGED',
      'EXTENT_DAMAGED',
      'EXTENT_DAMAGED',
      'EXTENT_DAMAGED',
    ]);
    expect(problems[1]?.message).toMatch(new RegExp(`^extent 3 of ${path.basename(path.dirname(dir))}/`));
    expect(problems[1]?.message).toMatch(/at offset \d+ of "pack-\w+"/);
  });

  it('finds counts that do not fit', async () => {
    rewrite((fields) => Object.assign(fields['pages'] as object, { zeroPageCount: 5 }));
    expect((await checkCheckpoint(dir)).problems).toMatchObject([{ code: 'INDEX_DAMAGED' }]);
  });

  it('stops when it is told to', async () => {
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(checkCheckpoint(dir, { signal })).rejects.toThrow('enough');
  });

  it('names a file that was cut', async () => {
    truncateSync(ownPack(dir), written.pages.fileBytes - 1);
    expect((await checkCheckpoint(dir)).problems).toMatchObject([{ code: 'EXTENT_DAMAGED' }]);
  });
});
