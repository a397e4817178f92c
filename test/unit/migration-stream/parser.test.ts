import { describe, expect, it } from 'vitest';
import { VmckptError } from '../../../src/errors.js';
import { StreamParser } from '../../../src/migration-stream/parser.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import {
  ascii,
  be32,
  be64,
  buildStream,
  bytes,
  CONFIGURATION,
  counted,
  DESCRIPTION,
  DEVICE_STATE,
  fullSection,
  parse,
  patternPage,
  SMALL_LAYOUT,
  SMALL_STREAM,
  storedOf,
} from './streams.js';

const HEADER = bytes('5145564d', '00000003');
const EOS = be64(0x10);
const FOOTER = `7e${be32(2)}`;
const RAM_START_HEAD = bytes('01', be32(2), counted('ram'), be32(0), be32(4));
/** pc.ram of four pages, pc.rom of one. */
const BLOCK_LIST = bytes(be64(0x5000 + 4), counted('pc.ram'), be64(0x4000), counted('pc.rom'), be64(0x1000));
const START = bytes(HEADER, CONFIGURATION, RAM_START_HEAD, BLOCK_LIST, EOS, FOOTER);
const PART = bytes('02', be32(2));
const END = bytes('03', be32(2), EOS, FOOTER);
const TAIL = bytes(DEVICE_STATE, '00', '06', be32(DESCRIPTION.length), DESCRIPTION);

function failureOf(...parts: readonly (string | Uint8Array)[]): VmckptError {
  try {
    parse([bytes(...parts)]);
  } catch (error) {
    if (error instanceof VmckptError) return error;
    throw error;
  }
  throw new Error('the stream was accepted');
}

describe('a stream written byte by byte', () => {
  const stream = bytes(
    START,
    PART,
    [be64(0x0000 | 0x08), counted('pc.ram')].join(''),
    patternPage(1),
    be64(0x1000 | 0x02 | 0x20),
    '00',
    be64(0x3000 | 0x08 | 0x20),
    patternPage(2),
    be64(0x200),
    EOS,
    FOOTER,
    PART,
    [be64(0x2000 | 0x02 | 0x20), '5a', be64(0x0000 | 0x08), counted('pc.rom')].join(''),
    patternPage(3),
    EOS,
    FOOTER,
    END,
    TAIL,
  );
  const parsed = parse([stream]);

  it('gives every page by its flat number', () => {
    expect(parsed.pages).toEqual([
      storedOf({ page: 0, seed: 1 }),
      storedOf({ page: 1, fill: 0 }),
      storedOf({ page: 3, seed: 2 }),
      { page: 2, content: 0x5a },
      storedOf({ page: 4, seed: 3 }),
    ]);
    expect(parsed).toMatchObject({ dataPageCount: 3, fillPageCount: 2, byteCount: stream.length });
  });

  it('keeps configuration, device state and description verbatim', () => {
    expect(parsed.configuration).toEqual(CONFIGURATION);
    expect(parsed.machineName).toBe('pc-q35-7.2');
    expect(parsed.ramSectionId).toBe(2);
    expect(parsed.deviceState).toEqual(DEVICE_STATE);
    expect(parsed.description).toEqual(DESCRIPTION);
    expect(parsed.layout.blocks.map(({ name, usedBytes }) => [name, usedBytes])).toEqual([
      ['pc.ram', 0x4000],
      ['pc.rom', 0x1000],
    ]);
  });
});

describe('variants of a stream', () => {
  it('gives the same result wherever one cut falls', () => {
    const stream = buildStream(SMALL_STREAM);
    const whole = parse([stream]);
    expect(whole.pages).toEqual(SMALL_STREAM.parts.flat().map(storedOf));
    for (let cut = 1; cut < stream.length; cut++)
      expect(parse([stream.subarray(0, cut), stream.subarray(cut)])).toEqual(whole);
  });

  it('gives the same result byte by byte', () => {
    const stream = buildStream(SMALL_STREAM);
    expect(parse(Array.from(stream, (byte) => Uint8Array.of(byte)))).toEqual(parse([stream]));
  });

  it('reads chunks in shared memory', () => {
    const stream = buildStream(SMALL_STREAM);
    const shared = new Uint8Array(new SharedArrayBuffer(stream.length));
    shared.set(stream);
    expect(parse([shared])).toEqual(parse([stream]));
  });

  it('takes the first device after a PART as the end of memory in a background snapshot', () => {
    const { deviceState, pages } = parse([buildStream({ ...SMALL_STREAM, background: true })]);
    expect(deviceState).toEqual(DEVICE_STATE);
    expect(pages).toHaveLength(6);
  });

  it('needs no description', () => {
    const { deviceState, description } = parse([
      buildStream({ ...SMALL_STREAM, description: Buffer.alloc(0) }),
    ]);
    expect(deviceState).toEqual(DEVICE_STATE);
    expect(description).toHaveLength(0);
  });

  it('is not misled by device data that looks like a description', () => {
    const lookalike = fullSection(9, 'odd', bytes('7e00000000', '00', '06', be32(2), ascii('{}')));
    const { deviceState } = parse([buildStream({ ...SMALL_STREAM, deviceState: lookalike })]);
    expect(deviceState).toEqual(lookalike);
  });

  it('needs neither devices nor a configuration', () => {
    const parsed = parse([bytes(HEADER, RAM_START_HEAD, BLOCK_LIST, EOS, FOOTER, END, '00')]);
    expect(parsed).toMatchObject({ machineName: '', dataPageCount: 0 });
    expect(parsed.configuration).toHaveLength(0);
    expect(parsed.deviceState).toHaveLength(0);
  });

  it('skips SWITCHOVER_START between the sections', () => {
    const { deviceState } = parse([bytes(START, '08000b0000', END, TAIL)]);
    expect(deviceState).toEqual(DEVICE_STATE);
  });

  it('keeps the known subsections of the configuration', () => {
    const configuration = bytes(
      CONFIGURATION,
      ['05', counted('configuration/target-page-bits'), be32(1), be32(12)].join(''),
      [
        '05',
        counted('configuration/capabilities'),
        be32(1),
        be32(2),
        counted('xbzrle'),
        counted('events'),
      ].join(''),
      ['05', counted('configuration/uuid'), be32(1), '00'.repeat(16)].join(''),
    );
    const parsed = parse([bytes(HEADER, configuration, START.subarray(8 + CONFIGURATION.length), END, TAIL)]);
    expect(parsed.configuration).toEqual(configuration);
    expect(parsed.machineName).toBe('pc-q35-7.2');
  });
});

describe('a stream that is refused', () => {
  const page = (offset: number, flags: number, name = 'pc.ram') =>
    bytes(be64(offset + flags), flags & 0x20 ? '' : counted(name), patternPage(0));
  const RECORD_AT = START.length + PART.length;

  it.each([
    [
      'is no QEMU stream',
      [bytes('4c69627669727453', '00')],
      /byte 0: expected the magic 0x5145564d .* found 0x4c696276/,
    ],
    ['has another version', [bytes('5145564d00000004')], /byte 4: expected stream version 3, found 4/],
    [
      'has an endless machine name',
      [HEADER, '07', be32(70_000)],
      /byte 9: expected .*1–255 bytes, found 70000/,
    ],
    [
      'has an unknown subsection',
      [HEADER, CONFIGURATION, '05', counted('configuration/x'), be32(1)],
      /configuration\/x/,
    ],
    [
      'has too many capabilities',
      [HEADER, CONFIGURATION, '05', counted('configuration/capabilities'), be32(1), be32(1000)],
      /at most 64 capabilities/,
    ],
    ['has an unknown section type', [START, '55'], /found 0x55/],
    [
      'starts a second section in parts',
      [START, '01', be32(9), counted('dirty-bitmap'), be64(0)],
      /"dirty-bitmap"/,
    ],
    ['starts ram twice', [START, RAM_START_HEAD], /one section in parts/],
    [
      'has another version of ram',
      [HEADER, '01', be32(2), counted('ram'), be32(0), be32(3)],
      /version 4 .* found 3/,
    ],
    ['continues another section', [START, '02', be32(7)], /expected the id 2 of section "ram", found 7/],
    ['continues ram before its start', [HEADER, '02', be32(2)], /the id \(none yet\)/],
    ['continues ram after its end', [START, END, PART], /more of "ram"/],
    [
      'has a device before memory',
      [HEADER, fullSection(0, 'timer', Buffer.alloc(1))],
      /device section "timer"/,
    ],
    ['has a device ahead of the first PART', [START, TAIL], /device section "timer"/],
    ['has another command', [START, '0800010000'], /command 1 with 0 bytes/],
    ['ends before the end of ram', [START, '00'], /expected the end of the ram section/],
    ['lacks the block list', [HEADER, RAM_START_HEAD, EOS, FOOTER], /list of RAM blocks/],
    ['has two block lists', [START, PART, BLOCK_LIST], /one list of RAM blocks/],
    [
      'has a page before the block list',
      [HEADER, RAM_START_HEAD, page(0, 8)],
      /expected the list of RAM blocks, found a page/,
    ],
    [
      'has more in a block than announced',
      [HEADER, RAM_START_HEAD, be64(0x1004), counted('a'), be64(0x2000)],
      /at most 4096/,
    ],
    [
      'has half pages in a block',
      [HEADER, RAM_START_HEAD, be64(0x1004), counted('a'), be64(0x800)],
      /whole pages/,
    ],
    [
      'names a block twice',
      [HEADER, RAM_START_HEAD, be64(0x2004), counted('a'), be64(0x1000), counted('a'), be64(0x1000)],
      /twice/,
    ],
    [
      'has endless empty blocks',
      [HEADER, RAM_START_HEAD, be64(0x1004), Buffer.alloc(4097 * 9)],
      /at most 4096 RAM blocks/,
    ],
    ['has no block to continue', [START, PART, page(0, 0x28)], /without one before it/],
    ['names an unknown block', [START, PART, page(0, 8, 'vga.vram')], /"vga.vram"/],
    [
      'has a page behind its block',
      [START, PART, page(0x4000, 8)],
      /below 16384 in RAM block "pc.ram", found 16384/,
    ],
    [
      'has a page 2^60 bytes behind',
      [START, PART, bytes('1000000000000008', counted('pc.ram'), patternPage(0))],
      /"pc.ram"/,
    ],
    ['has an unaligned page', [START, PART, page(0x1001, 8)], /low bits 0x9/],
    ['has a record without a flag', [START, PART, be64(0)], /low bits 0x0/],
    ['lacks a footer', [START, PART, EOS, PART], /expected a section footer 0x7e, found 0x2/],
    [
      'has the footer of another section',
      [START, PART, EOS, `7e${be32(5)}`],
      /footer of section 2, found of 5/,
    ],
  ] as const)('says so when it %s', (_, parts, message) => {
    const error = failureOf(...parts);
    expect(error.code).toBe('STREAM_MALFORMED');
    expect(error.message).toMatch(message);
  });

  it('names the offset of a bad record', () => {
    expect(failureOf(START, PART, page(0x5000, 8)).message).toContain(`byte ${RECORD_AT}:`);
    const stream = bytes(START, PART, page(0, 8), page(0x5000, 0x28));
    const second = RECORD_AT + 8 + 7 + PAGE_BYTES;
    const parser = new StreamParser({ onLayout: () => ({ fill() {}, data() {} }) });
    parser.push(stream.subarray(0, RECORD_AT + 100));
    expect(() => parser.push(stream.subarray(RECORD_AT + 100))).toThrow(`byte ${second}:`);
  });

  it.each([
    ['xbzrle', 0x40],
    ['compress', 0x100],
  ])('names the capability %s that made a record', (capability, flag) => {
    expect(failureOf(START, PART, be64(0x1000 + flag)).hint).toContain(capability);
  });

  it.each(['x-ignore-shared', 'mapped-ram'])('names the capability %s of the configuration', (name) => {
    const error = failureOf(
      HEADER,
      CONFIGURATION,
      '05',
      counted('configuration/capabilities'),
      be32(1),
      be32(1),
      counted(name),
    );
    expect(error.hint).toContain(name);
  });

  it('has more device state than the limit', () => {
    const parser = new StreamParser(
      { onLayout: () => ({ fill() {}, data() {} }) },
      { maxDeviceStateBytes: 1000 },
    );
    parser.push(bytes(START, END, DEVICE_STATE));
    expect(() => parser.push(Buffer.alloc(1000, 1))).toThrow(/at most 1000 bytes of device state/);
  });

  it('stays refused', () => {
    const parser = new StreamParser({ onLayout: () => ({ fill() {}, data() {} }) });
    const attempt = () => parser.push(bytes('00'.repeat(8)));
    expect(attempt).toThrow(/byte 0:/);
    expect(attempt).toThrow(/byte 0:/);
    expect(() => parser.end()).toThrow(/byte 0:/);
  });

  it('stays refused when its sink failed', () => {
    const full = new VmckptError('NO_SPACE', 'disk full');
    const parser = new StreamParser({
      onLayout: () => {
        throw full;
      },
    });
    expect(() => parser.push(START)).toThrow(full);
    expect(() => parser.end()).toThrow(full);
  });
});

describe('a stream that is padded with zeros', () => {
  const padding = [1, 3, 4, 5, 4096, 100_000];
  /** The last footer's id, as it ends a stream without a description. */
  const states = [0, 1, 0x7e, 0x100, 0x7e00, 0x7e0000, 0x7e7e7e7e].map((id) =>
    bytes(DEVICE_STATE, fullSection(id, 'last', bytes('7e', be32(id), '00'))),
  );

  it.each([DESCRIPTION, Buffer.alloc(0)])('is whole (description: %s)', (description) => {
    for (const deviceState of [...states, DEVICE_STATE])
      for (const length of [0, ...padding]) {
        const stream = buildStream({ ...SMALL_STREAM, deviceState, description });
        const parsed = parse([stream, Buffer.alloc(length)]);
        expect(parsed.deviceState.toString('hex')).toBe(deviceState.toString('hex'));
        expect(parsed.description).toEqual(description);
      }
  });

  it('is whole when it comes in pieces of any length', () => {
    const stream = bytes(buildStream(SMALL_STREAM), Buffer.alloc(1000));
    for (const length of [1, 7, 4096]) {
      const pieces = [];
      for (let at = 0; at < stream.length; at += length) pieces.push(stream.subarray(at, at + length));
      expect(parse(pieces).deviceState).toEqual(DEVICE_STATE);
    }
  });

  it('takes no memory for it', () => {
    const parser = new StreamParser({ onLayout: () => ({ fill: () => undefined, data: () => undefined }) });
    parser.push(buildStream(SMALL_STREAM));
    const zeros = Buffer.alloc(1 << 20);
    for (let piece = 0; piece < 512; piece++) parser.push(zeros);
    expect(parser.end().deviceState).toEqual(DEVICE_STATE);
  });

  it('is truncated when it is, with whatever padding', () => {
    const stream = buildStream({ ...SMALL_STREAM, description: Buffer.alloc(0) });
    for (const cut of [7, 9, 12, 20])
      expect(failureOf(stream.subarray(0, stream.length - cut), Buffer.alloc(4096))).toMatchObject({
        code: 'STREAM_TRUNCATED',
      });
  });
});

describe('a truncated stream', () => {
  it('is told from a whole one at every length but that of its own shorter form', () => {
    const stream = buildStream(SMALL_STREAM);
    const withoutDescription = stream.length - DESCRIPTION.length - 5;
    for (let length = 0; length < stream.length; length++) {
      if (length === withoutDescription) continue;
      expect(() => parse([stream.subarray(0, length)])).toThrow(
        expect.objectContaining({ code: 'STREAM_TRUNCATED' }) as Error,
      );
    }
  });

  it('says where it breaks off', () => {
    expect(() => parse([START])).toThrow(`cut off after ${START.length} bytes, within: section`);
    expect(() => parse([bytes(START, PART)])).toThrow('within: RAM records');
  });

  it('is counted while it comes', () => {
    const parser = new StreamParser({ onLayout: () => ({ fill() {}, data() {} }) });
    const stream = buildStream({ ...SMALL_STREAM, layout: SMALL_LAYOUT });
    for (const length of [3, 200, 5000]) {
      const before = parser.bytesSeen;
      parser.push(stream.subarray(before, before + length));
      expect(parser.bytesSeen).toBe(before + length);
    }
  });
});
