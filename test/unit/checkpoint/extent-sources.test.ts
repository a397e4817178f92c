/** The contract of extent sources, for each that there is. */
import { FileExtents } from '../../../src/checkpoint/file-extents.js';
import type { Level } from '../../../src/checkpoint/extent-codec.js';
import { describeExtentSource, type SubjectSource } from '../../contracts/extent-source.js';
import { flipExtents } from '../../support/damage.js';
import { SlowExtents } from '../../support/slow-extents.js';
import { contentOf, smallCheckpoint } from './small-checkpoint.js';

async function fileExtents(level: Level): Promise<SubjectSource & { extents: FileExtents }> {
  const { dir, reader } = await smallCheckpoint(level);
  const extents = new FileExtents(reader);
  const close = async () => {
    await extents.close();
    reader.close();
  };
  const damage = (extent: number) => flipExtents(dir, reader, [extent]);
  return { extents, catalog: reader, bytesOf: contentOf, damage, close };
}

describeExtentSource('FileExtents of compressed pages', () => fileExtents(1));
describeExtentSource('FileExtents of raw pages', () => fileExtents('none'));
describeExtentSource('SlowExtents, the double,', async () => {
  const files = await fileExtents(1);
  const extents = new SlowExtents(files.extents);
  const withhold = (extent: number) => extents.withhold(extent);
  return { ...files, extents, late: { withhold, deliver: (extent) => extents.deliver(extent) } };
});
