import { describe, expect, it } from 'vitest';
import { HostPages } from '../../../src/pages/host-pages.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import * as wire from '../../../src/migration-stream/serializer.js';
import { be32, be64, bytes, counted, CONFIGURATION, patternPage, SMALL_LAYOUT } from './streams.js';

describe('commands and sections', () => {
  it.each([
    ['openReturnPath', wire.openReturnPath(), '0800010000'],
    ['ping', wire.ping(3), '080002000400000003'],
    ['postcopyAdvise', wire.postcopyAdvise(4096), `0800030010${be64(4096)}${be64(4096)}`],
    ['postcopyListen', wire.postcopyListen(), '0800040000'],
    ['postcopyRun', wire.postcopyRun(), '0800050000'],
    ['packaged', wire.packaged(Buffer.from('abcd', 'hex')), '080007000400000002abcd'],
    ['postcopyResume', wire.postcopyResume(), '0800090000'],
    ['requestReceivedBitmap', wire.requestReceivedBitmap('pc.ram'), `08000a0007${counted('pc.ram')}`],
    ['ramPartOpen', wire.ramPartOpen(258), '0200000102'],
    ['ramEndOpen', wire.ramEndOpen(258), '0300000102'],
    ['ramClose', wire.ramClose(258), `${be64(0x10)}7e00000102`],
    ['END_OF_STREAM', wire.END_OF_STREAM, '00'],
    ['vmDescription', wire.vmDescription(Buffer.from('{}')), `06${be32(2)}7b7d`],
    ['streamHeader', wire.streamHeader(CONFIGURATION), `5145564d00000003${CONFIGURATION.toString('hex')}`],
  ])('writes %s', (_, written, expected) => {
    expect(written.toString('hex')).toBe(expected);
  });

  it('writes the start of "ram" with its block list and footer', () => {
    const layout = new RamLayout([
      { name: 'pc.ram', usedBytes: 5 * 2 ** 30 },
      { name: 'pc.rom', usedBytes: 4096 },
    ]);
    expect(wire.ramStart(2, layout).toString('hex')).toBe(
      [
        ['01', be32(2), counted('ram'), be32(0), be32(4)],
        [be64(5 * 2 ** 30 + 4096 + 4), counted('pc.ram'), be64(5 * 2 ** 30), counted('pc.rom'), be64(4096)],
        [be64(0x10), '7e', be32(2)],
      ]
        .flat()
        .join(''),
    );
  });

  it('tells the page size of a block of huge pages, and only of that', () => {
    const layout = new RamLayout([
      { name: 'mem', usedBytes: 4 << 20 },
      { name: 'pc.rom', usedBytes: 4096 },
    ]);
    const hostPages = new HostPages(layout, { mem: 2 << 20 });
    expect(wire.ramStart(2, layout, hostPages).toString('hex')).toContain(
      [counted('mem'), be64(4 << 20), be64(2 << 20), counted('pc.rom'), be64(4096), be64(0x10)].join(''),
    );
    expect(hostPages.sizeBits).toBe(0x201000);
  });

  it('splits discards into commands of at most twelve ranges', () => {
    const ranges = Array.from({ length: 13 }, (_, i) => ({ startBytes: i * 0x2000, lengthBytes: 0x1000 }));
    const pairs = ranges.map(({ startBytes }) => be64(startBytes) + be64(0x1000));
    const head = (rangeCount: number) =>
      `080006${(9 + 16 * rangeCount).toString(16).padStart(4, '0')}00${counted('pc.ram')}00`;
    expect(wire.discardRanges('pc.ram', ranges).toString('hex')).toBe(
      [head(12), ...pairs.slice(0, 12), head(1), pairs[12]].join(''),
    );
    expect(wire.discardRanges('pc.ram', [])).toHaveLength(0);
  });
});

describe('RecordWriter', () => {
  it('names a block when it changes and continues it otherwise', () => {
    const writer = new wire.RecordWriter(SMALL_LAYOUT, 1 << 16);
    writer.zero(1);
    writer.page(2, patternPage(1), 0);
    writer.zero(10);
    writer.zero(3);
    writer.eos();
    expect(writer.take()).toEqual(
      bytes(
        [be64(0x1000 | 0x02), counted('pc.ram'), '00', be64(0x2000 | 0x08 | 0x20)].join(''),
        patternPage(1),
        [be64(0x02), counted('pc.bios'), '00', be64(0x3000 | 0x02), counted('pc.ram'), '00', be64(0x10)].join(
          '',
        ),
      ),
    );
  });

  it('names the block again when told that the receiver has forgotten', () => {
    const writer = new wire.RecordWriter(SMALL_LAYOUT, 1 << 16);
    writer.zero(0);
    writer.take();
    writer.forgetBlock();
    writer.zero(0);
    expect(writer.take().toString('hex')).toBe(`${be64(0x02)}${counted('pc.ram')}00`);
  });

  it('writes a repeated byte as ZERO only when it is 0', () => {
    const writer = new wire.RecordWriter(SMALL_LAYOUT, 1 << 16);
    writer.fill(0, 0);
    writer.fill(1, 0xa5);
    expect(writer.take()).toEqual(
      bytes(
        [be64(0x02), counted('pc.ram'), '00', be64(0x1000 | 0x08 | 0x20)].join(''),
        Buffer.alloc(PAGE_BYTES, 0xa5),
      ),
    );
  });

  it('writes offsets beyond 4 GiB', () => {
    const writer = new wire.RecordWriter(
      new RamLayout([{ name: 'r', usedBytes: 2 ** 44 - PAGE_BYTES }]),
      1 << 16,
    );
    writer.zero(0x2345_6789);
    writer.zero(2 ** 32 - 2);
    expect(writer.take().toString('hex')).toBe(
      `${be64(0x2345_6789 * PAGE_BYTES + 0x02)}${counted('r')}00${be64((2 ** 32 - 2) * PAGE_BYTES + 0x22)}00`,
    );
  });

  it('leaves alone what was taken, and grows when nothing is taken', () => {
    const writer = new wire.RecordWriter(SMALL_LAYOUT, PAGE_BYTES);
    const taken: { given: Buffer; copy: Buffer }[] = [];
    for (let round = 0; round < 20; round++) {
      for (let page = 0; page <= round % 5; page++) writer.page(page, patternPage(round + page), 0);
      expect(writer.usedBytes).toBeGreaterThan(PAGE_BYTES);
      const given = writer.take();
      expect(writer.usedBytes).toBe(0);
      taken.push({ given, copy: Buffer.from(given) });
    }
    for (const { given, copy } of taken) expect(given).toEqual(copy);
    expect(writer.take()).toHaveLength(0);
  });

  it('takes raw bytes of any length between the records', () => {
    const writer = new wire.RecordWriter(SMALL_LAYOUT, PAGE_BYTES);
    const raw = Buffer.concat([1, 2, 3, 4].map(patternPage));
    writer.zero(0);
    writer.raw(raw);
    writer.raw(raw);
    expect(writer.take()).toEqual(bytes(`${be64(0x02)}${counted('pc.ram')}00`, raw, raw));
  });

  it('reads a page in the middle of its bytes', () => {
    const writer = new wire.RecordWriter(SMALL_LAYOUT, 1 << 16);
    writer.page(0, Buffer.concat([patternPage(1), patternPage(2)]), PAGE_BYTES);
    expect(writer.take().subarray(-PAGE_BYTES)).toEqual(patternPage(2));
  });

  it('refuses a page outside the layout', () => {
    const writer = new wire.RecordWriter(SMALL_LAYOUT, 1 << 16);
    expect(() => writer.zero(SMALL_LAYOUT.pageCount)).toThrow(RangeError);
  });
});
