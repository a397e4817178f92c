/**
 * A process that writes checkpoints until it is killed (`generations STORE`), or one of 64 GiB (`wide DIR`) or one
 * whose pages are written several times over (`rewritten DIR`), after which it prints the most memory it has had, in bytes.
 */
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { Store } from '../../../src/store/store.js';
import { manifestParts, syntheticPage } from '../checkpoint/synthetic-pages.js';

const BURST_PAGES = 256;

async function writeGenerations(storeDir: string): Promise<never> {
  const store = await Store.open(storeDir);
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: 2000 * PAGE_BYTES }]);
  process.stdout.write('ready');
  for (;;) {
    const pending = await store.begin('web');
    const writer = CheckpointWriter.create(pending.dir, { layout, level: 1 });
    for (let page = 0; page < layout.pageCount; page++) {
      writer.data(page, syntheticPage(page), 0);
      if (page % BURST_PAGES === BURST_PAGES - 1) await writer.ready();
    }
    await writer.finish(manifestParts({ generation: pending.generation }), new Uint8Array(100));
    await pending.commit();
  }
}

/** A data page in every 64, so that every part of a large index changes. */
async function writeWide(dir: string): Promise<void> {
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: 64 * 2 ** 30 }]);
  const pages = Array.from({ length: 2048 }, (_, page) => syntheticPage(page));
  const writer = CheckpointWriter.create(dir, { layout, level: 1 });
  for (let page = 0; page < layout.pageCount; page++) {
    if (page % 64 === 0) writer.data(page, pages[(page / 64) % pages.length]!, 0);
    else writer.fill(page, 0);
    if (page % BURST_PAGES === BURST_PAGES - 1) await writer.ready();
  }
  await writer.finish(manifestParts(), new Uint8Array(10));
  process.stdout.write(String(process.resourceUsage().maxRSS * 1024));
}

/** 512 MiB, and then twice over half of its pages in another order, as pre-copy sends them: superseded data has to go. */
async function writeRewritten(dir: string): Promise<void> {
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: 512 * 2 ** 20 }]);
  const pages = Array.from({ length: 2048 }, (_, page) => syntheticPage(page));
  const writer = CheckpointWriter.create(dir, { layout, level: 1 });
  const strides = [1, 2 * 7919, 2 * 7907];
  for (const stride of strides)
    for (let count = 0; count < layout.pageCount / (stride === 1 ? 1 : 2); count++) {
      const page = (count * stride) % layout.pageCount;
      writer.data(page, pages[(page + stride) % pages.length]!, 0);
      if (count % BURST_PAGES === BURST_PAGES - 1) await writer.ready();
    }
  await writer.finish(manifestParts(), new Uint8Array(10));
  process.stdout.write(String(process.resourceUsage().maxRSS * 1024));
}

const tasks = { generations: writeGenerations, wide: writeWide, rewritten: writeRewritten };
const [task, dir] = process.argv.slice(2);
await tasks[task as keyof typeof tasks](dir!);
