/** What every ExtentSource has to pass, whatever it reads from. In C++ it is test/unit/native/extent-source.cc. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { PAGE_KINDS, type ExtentSource, type PageCatalog } from '../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import { until } from '../support/until.js';

export interface SubjectSource {
  readonly extents: ExtentSource;
  /** Of a checkpoint with 40 extents or more. */
  readonly catalog: PageCatalog & { readonly extentCount: number; readonly extentPages: number };
  /** What was saved. */
  readonly bytesOf: (page: number) => Uint8Array;
  /** Makes an extent unlike what was saved, where this source reads it. */
  readonly damage: (extent: number) => void;
  /** Of a source that can be without an extent. */
  readonly late?: {
    readonly withhold: (extent: number) => void;
    readonly deliver: (extent: number) => void;
  };
  readonly close: () => Promise<void>;
}

export function describeExtentSource(name: string, make: () => Promise<SubjectSource>): void {
  async function subject(): Promise<SubjectSource> {
    const made = await make();
    onTestFinished(() => made.close());
    return made;
  }

  describe(`${name}, as an extent source,`, () => {
    it('gives every extent as it was saved', async () => {
      const source = await subject();
      for (const extent of numbers(source)) expectRight(source, extent, await readSoon(source, extent));
    });

    it.each(['in order', 'backwards', 'in part', 'not at all'])('reads many at once, %s', async (which) => {
      const source = await subject();
      const all = numbers(source);
      if (which === 'backwards') all.reverse();
      const wanted =
        which === 'not at all' ? [] : which === 'in part' ? all.filter((at) => at % 3 === 0) : all;
      source.extents.willNeed(wanted);
      const read = await source.extents.read(wanted);
      for (const [position, extent] of wanted.entries()) expectRight(source, extent, read.bytesAt(position));
      read.release();
    });

    it('keeps what several readers are given apart', async () => {
      const source = await subject();
      const all = numbers(source);
      const requests = [all, [...all].reverse(), all.filter((at) => at % 2 === 0), [all[7]!]];
      const given = await Promise.all(requests.map((request) => source.extents.read(request)));
      for (const extent of all) expectRight(source, extent, await readSoon(source, extent));
      for (const [index, request] of requests.entries())
        for (const [position, extent] of request.entries())
          expectRight(source, extent, given[index]!.bytesAt(position));
      for (const read of given) read.release();
    });

    it('names the one extent that is damaged', async () => {
      const source = await subject();
      source.damage(3);
      const damage = { code: 'EXTENT_DAMAGED', message: expect.stringContaining('extent 3 of ') as string };
      await expect(readSoon(source, 3)).rejects.toMatchObject(damage);
      const into = new Uint8Array(source.catalog.extentPages * PAGE_BYTES);
      expect(() => source.extents.readNow(3, into)).toThrow(expect.objectContaining(damage));
      await expect(source.extents.read([2, 3, 4])).rejects.toMatchObject(damage);
      await expect(source.extents.read(numbers(source))).rejects.toMatchObject(damage);
      const others = numbers(source).filter((extent) => extent !== 3);
      const read = await source.extents.read(others);
      for (const [position, extent] of others.entries()) {
        expectRight(source, extent, read.bytesAt(position));
        expectRight(source, extent, await readSoon(source, extent));
      }
      read.release();
    });

    it('reads nothing for a signal that is aborted', async () => {
      const source = await subject();
      const reason = new Error('enough');
      await expect(source.extents.read([0], AbortSignal.abort(reason))).rejects.toBe(reason);
    });

    it('tells what it does not have yet, waits for it, and then has it', async () => {
      const source = await subject();
      if (source.late === undefined) return;
      const into = new Uint8Array(source.catalog.extentPages * PAGE_BYTES);
      source.late.withhold(3);
      expect(source.extents.readNow(3, into)).toBeUndefined();
      expectRight(source, 4, await readSoon(source, 4));
      const stop = new AbortController();
      const given = source.extents.read([2, 3, 4]);
      const given3 = source.extents.read([3]);
      const stopped = source.extents.read([3], stop.signal);
      stop.abort(new Error('enough'));
      await expect(stopped).rejects.toThrow('enough');
      expect(source.extents.readNow(3, into)).toBeUndefined();
      source.late.deliver(3);
      const [read, alone] = await Promise.all([given, given3]);
      expectRight(source, 3, await readSoon(source, 3));
      for (const [position, extent] of [2, 3, 4].entries())
        expectRight(source, extent, read.bytesAt(position));
      expectRight(source, 3, alone.bytesAt(0));
      for (const each of [read, alone]) each.release();
    });
  });
}

function numbers({ catalog }: SubjectSource): number[] {
  return Array.from({ length: catalog.extentCount }, (_, extent) => extent);
}

/** As soon as the source has it: at once, for those that have everything. */
async function readSoon({ extents, catalog, late }: SubjectSource, extent: number): Promise<Uint8Array> {
  const into = new Uint8Array(catalog.extentPages * PAGE_BYTES);
  const now = () => extents.readNow(extent, into);
  const pageCount = late === undefined ? now() : await until(`extent ${extent}`, () => now() ?? false);
  expect(pageCount).toBeDefined();
  return into.subarray(0, pageCount! * PAGE_BYTES);
}

function expectRight({ catalog, bytesOf }: SubjectSource, extent: number, bytes: Uint8Array): void {
  let found = 0;
  for (let page = 0; page < catalog.layout.pageCount; page++) {
    if (catalog.kindOf(page) !== PAGE_KINDS.data || catalog.extentOf(page) !== extent) continue;
    const start = catalog.slotOf(page) * PAGE_BYTES;
    expect(Buffer.compare(bytes.subarray(start, start + PAGE_BYTES), bytesOf(page))).toBe(0);
    found++;
  }
  expect(found).toBeGreaterThan(0);
}
