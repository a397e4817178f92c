/** The extents of a generation that is still arriving. */
import { existsSync, rmSync } from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { Arrival } from '../../../src/page-server/arrival.js';
import { ArrivingExtents } from '../../../src/page-server/arriving-extents.js';
import { presenceFile } from '../../../src/page-server/cache-layout.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { describeExtentSource, type SubjectSource } from '../../contracts/extent-source.js';
import { flipExtents } from '../../support/damage.js';
import { Random } from '../../support/faults.js';
import { LateFiller } from '../../support/late-filler.js';
import { format2Manifest } from '../../support/packs.js';
import { until } from '../../support/until.js';
import { contentOf, smallCheckpoint } from '../checkpoint/small-checkpoint.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

const DELAY_MS = 20;

async function arriving(random?: Random): Promise<SubjectSource & { filler: LateFiller; whole: string }> {
  const { dir: whole, reader: wholeReader } = await smallCheckpoint('none');
  wholeReader.close();
  const cacheDir = path.join(temporaryDir(), 'cache');
  const filler = new LateFiller({ generationDir: whole, cacheDir, random, delayMs: DELAY_MS });
  const reader = await CheckpointReader.open(filler.dir);
  const arrival = Arrival.of(filler.dir, reader.manifest)!;
  const extents = new ArrivingExtents(reader, arrival);
  const close = async () => {
    await extents.close();
    arrival.close();
    reader.close();
    await filler.end();
  };
  return {
    ...{ filler, whole, extents, catalog: reader, bytesOf: contentOf, close },
    damage: (extent) => flipExtents(whole, reader, [extent]),
    late: {
      withhold: (extent) => filler.withhold(reader.extentInfo(extent)),
      deliver: (extent) => filler.deliver(reader.extentInfo(extent)),
    },
  };
}

describeExtentSource('ArrivingExtents', () => arriving());
describeExtentSource('ArrivingExtents that come late and in random order', () => arriving(new Random(7)));

it('fetches what has arrived damaged once more, and that is no damage', async () => {
  const source = await arriving();
  onTestFinished(source.close);
  const reader = source.catalog as CheckpointReader;
  flipExtents(source.whole, reader, [3]);
  const arrival = Arrival.of(source.filler.dir, reader.manifest)!;
  onTestFinished(() => arrival.close());
  const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
  expect(source.extents.readNow(3, into)).toBeUndefined();
  await until('extent 3 to arrive', () => arrival.has(reader.extentInfo(3)));
  flipExtents(source.whole, reader, [3]);
  await until('extent 3', () => source.extents.readNow(3, into) ?? false);
  expect(source.filler.wants.filter(({ isAgain }) => isAgain).length).toBe(1);
});

it('asks for neighbours together, and again for what does not come', async () => {
  const source = await arriving();
  onTestFinished(source.close);
  source.filler.isAway = true;
  source.extents.willNeed([2, 3, 4, 9]);
  const asked = await until('wants', () => source.filler.wants.length >= 2 && [...source.filler.wants]);
  const bytes = source.catalog.extentPages * PAGE_BYTES;
  expect(asked.map(({ length, lane }) => ({ length, lane }))).toEqual([
    { length: 3 * bytes, lane: 'predicted' },
    { length: bytes, lane: 'predicted' },
  ]);
  expect(source.extents.readNow(9, new Uint8Array(bytes))).toBeUndefined();
  const read = source.extents.read([2, 9]);
  await until('extent 9 to be demanded again', () => {
    const demands = source.filler.wants.filter(({ lane }) => lane === 'demand');
    return demands.length >= 2;
  });
  source.filler.isAway = false;
  (await read).release();
});

it('is not there for a generation that has arrived', async () => {
  const source = await arriving();
  onTestFinished(source.close);
  const manifest = format2Manifest(source.filler.dir);
  for (const { id } of manifest.packs) rmSync(path.join(source.filler.dir, presenceFile(id)));
  expect(Arrival.of(source.filler.dir, manifest)).toBeUndefined();
  expect(existsSync(source.filler.dir)).toBe(true);
});
