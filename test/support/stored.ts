/** Small whole generations of synthetic memory in a store, for tests that need no QEMU. */
import { CheckpointWriter } from '../../src/checkpoint/writer.js';
import type { ManifestParts } from '../../src/checkpoint/manifest.js';
import { MAX_BURST_BYTES } from '../../src/pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../../src/pages/layout.js';
import { Store } from '../../src/store/store.js';
import { manifestParts, syntheticPage } from '../unit/checkpoint/synthetic.js';

const PAGES = 64;
const BURST_PAGES = MAX_BURST_BYTES / PAGE_BYTES;

export interface StoredOptions extends Partial<ManifestParts> {
  /** Half of them hold data. */
  readonly pageCount?: number;
}

/** Adds the next generation of `name`; returns its folder. */
export async function storeGeneration(
  storeDir: string,
  name: string,
  { pageCount = PAGES, ...parts }: StoredOptions = {},
): Promise<string> {
  const store = await Store.openOrCreate(storeDir);
  const pending = await store.begin(name);
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: pageCount * PAGE_BYTES }]);
  const writer = CheckpointWriter.create(pending.dir, { layout, level: 1 });
  for (let page = 0; page < pageCount / 2; page++) {
    if (page % BURST_PAGES === 0) await writer.ready();
    writer.data(page, syntheticPage(page), 0);
  }
  const { generation } = pending;
  await writer.finish(manifestParts({ ...parts, name, generation }), Buffer.from('device state'));
  await pending.commit();
  return (await store.locate(`${name}@${generation}`)).dir;
}
