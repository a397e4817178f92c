/** The page feeder over a source that does not have everything yet. */
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { FileExtents } from '../../../src/checkpoint/file-extents.js';
import { StreamParser } from '../../../src/migration-stream/parser.js';
import * as wire from '../../../src/migration-stream/serializer.js';
import { HostPages } from '../../../src/pages/host-pages.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { Channel } from '../../../src/transfer/channel.js';
import { PageFeeder } from '../../../src/transfer/page-feeder.js';
import { flipExtents } from '../../support/damage.js';
import { SlowExtents } from '../../support/slow-extents.js';
import { contentOf, smallCheckpoint } from '../checkpoint/small-checkpoint.js';

const RAM_SECTION_ID = 2;
const HUGE_PAGES = 16;

async function feeding({ isHuge = false } = {}) {
  const { dir, reader } = await smallCheckpoint(1);
  const files = new FileExtents(reader);
  onTestFinished(async () => {
    await files.close();
    reader.close();
  });
  const extents = new SlowExtents(files);
  const out = new PassThrough({ highWaterMark: 64 << 20 });
  const channel = new Channel(out, reader.layout);
  const hostPages = new HostPages(reader.layout, isHuge ? { 'pc.ram': HUGE_PAGES * PAGE_BYTES } : {});
  const feeder = new PageFeeder({
    catalog: reader,
    extents,
    demand: channel,
    background: channel,
    backgroundAheadBytes: 64 << 20,
    hostPages,
  });
  const stop = new AbortController();
  /** The pages so far, in the order in which they were sent. */
  const sent = (): { page: number; bytes: Uint8Array }[] => {
    const pages: { page: number; bytes: Uint8Array }[] = [];
    const note = (page: number, bytes: Uint8Array) => void pages.push({ page, bytes });
    const sink = {
      fill: (page: number, byte: number) => note(page, new Uint8Array(PAGE_BYTES).fill(byte)),
      data: (page: number, bytes: Uint8Array, start: number) =>
        note(page, Uint8Array.from(bytes.subarray(start, start + PAGE_BYTES))),
    };
    const parser = new StreamParser({ onLayout: () => sink });
    parser.push(
      Buffer.concat([
        wire.streamHeader(Buffer.alloc(0)),
        wire.ramStart(RAM_SECTION_ID, reader.layout),
        wire.ramPartOpen(RAM_SECTION_ID),
      ]),
    );
    const bytes = out.read() as Buffer | null;
    if (bytes !== null) parser.push(bytes);
    return pages;
  };
  return { dir, reader, extents, feeder, stop, sent };
}

function expectWhole(sent: readonly { page: number; bytes: Uint8Array }[], pages: readonly number[]): void {
  expect(sent.map(({ page }) => page).sort((a, b) => a - b)).toEqual(pages);
  for (const { page, bytes } of sent) expect(Buffer.compare(bytes, contentOf(page))).toBe(0);
}

/** The data pages of the extents of these pages. */
function withNeighbours({ reader }: Awaited<ReturnType<typeof feeding>>, ...wanted: readonly number[]) {
  const extents = new Set(wanted.map((page) => reader.extentOf(page)));
  const all = Array.from({ length: reader.pageCount }, (_, page) => page);
  return all.filter((page) => reader.kindOf(page) === 3 && extents.has(reader.extentOf(page)));
}

it('answers what is here at once, and the rest when it comes', async () => {
  const subject = await feeding();
  const { reader, extents, feeder, stop, sent } = subject;
  extents.withhold(reader.extentOf(101));
  const late = feeder.answer(101, 1, stop.signal);
  const again = feeder.answer(101, 1, stop.signal);
  expect(late).toBeInstanceOf(Promise);
  expect(feeder.answer(501, 1, stop.signal)).toBeUndefined();
  extents.deliver(reader.extentOf(101));
  await Promise.all([late, again]);
  expectWhole(sent(), withNeighbours(subject, 101, 501));
  expect(feeder.counters).toMatchObject({ demandPages: 2, lateAnswers: 2 });
  // Of the three requests one was answered by another's answer.
  expect(feeder.faults.count).toBe(2);
});

it('sends nothing twice when the background brings what is late', async () => {
  const { reader, extents, feeder, stop, sent } = await feeding();
  extents.withhold(reader.extentOf(101), reader.extentOf(701));
  const late = feeder.answer(101, 1, stop.signal);
  const rest = feeder.sendRest([{ firstPage: 0, endPage: reader.pageCount }], stop.signal);
  await sleep(20);
  extents.deliver(reader.extentOf(101), reader.extentOf(701));
  await Promise.all([late, rest]);
  const data = Array.from({ length: reader.pageCount }, (_, page) => page).filter((page) => page % 16 !== 0);
  expectWhole(sent(), data);
});

it('rejects for a late page that is damaged, and when it is to end', async () => {
  const { dir, reader, extents, feeder, stop, sent } = await feeding();
  extents.withhold(reader.extentOf(101), reader.extentOf(501));
  const damaged = feeder.answer(101, 1, stop.signal);
  const stopped = feeder.answer(501, 1, stop.signal);
  flipExtents(dir, reader, [reader.extentOf(101)]);
  extents.deliver(reader.extentOf(101));
  await expect(damaged).rejects.toMatchObject({ code: 'EXTENT_DAMAGED' });
  const reason = new Error('enough');
  stop.abort(reason);
  await expect(stopped).rejects.toBe(reason);
  expect(sent()).toEqual([]);
});

it('sends a huge page whole, or nothing of it', async () => {
  const { reader, extents, feeder, stop, sent } = await feeding({ isHuge: true });
  const pages = Array.from({ length: HUGE_PAGES }, (_, at) => 96 + at);
  const last = reader.extentOf(111);
  expect(last).not.toBe(reader.extentOf(97));
  extents.withhold(last);
  const late = feeder.answer(101, 1, stop.signal);
  expect(late).toBeInstanceOf(Promise);
  expect(extents.announced).toContain(last);
  expect(feeder.answer(513, 1, stop.signal)).toBeUndefined();
  extents.deliver(last);
  await late;
  const other = Array.from({ length: HUGE_PAGES }, (_, at) => 512 + at);
  const all = sent();
  expectWhole(all, [...pages, ...other]);
  // Each in order and without a break.
  expect(all.map(({ page }) => page)).toEqual([...other, ...pages]);
});
