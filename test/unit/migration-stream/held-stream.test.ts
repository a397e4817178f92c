import { expect, it } from 'vitest';
import { asUnpaused, globalStateIn, withGlobalState } from '../../../src/migration-stream/global-state.js';
import { StreamParser } from '../../../src/migration-stream/parser.js';
import { ascii, be32, be64, bytes, CONFIGURATION, counted, DEVICE_STATE, patternPage } from './streams.js';

const EOS = be64(0x10);
const ramFooter = `7e${be32(2)}`;
const bitmapFooter = `7e${be32(3)}`;
/** As QEMU sends it with dirty bitmaps: the announcement of post-copy for them, memory, the bitmap, and no end. */
const OPENING = bytes(
  '5145564d00000003',
  CONFIGURATION,
  '0800030000',
  ...['01', be32(2), counted('ram'), be32(0), be32(4)],
  ...[be64(0x2000 + 4), counted('pc.ram'), be64(0x2000), EOS, ramFooter],
  ...['01', be32(3), counted('dirty-bitmap'), be32(0), be32(1)],
  ...['1c', counted('vmckpt-hold'), counted('vmckpt-hold'), '00010000', '00', '01', bitmapFooter],
);
const PAGES = bytes(
  ...['02', be32(2), be64(0x08), counted('pc.ram'), patternPage(1)],
  ...[be64(0x1000 | 0x02 | 0x20), '00', EOS, ramFooter, '02', be32(3), '01', bitmapFooter],
);
const NOTHING = bytes('02', be32(2), EOS, ramFooter, '02', be32(3), '01', bitmapFooter);
const SAVED_DEVICES = bytes('5145564d00000003', DEVICE_STATE, '00');

function pushed(stream: Buffer, step: number): StreamParser {
  const sink = { fill: () => undefined, data: () => undefined };
  const parser = new StreamParser({ onLayout: () => sink }, { held: true });
  for (let at = 0; at < stream.length; at += step) parser.push(stream.subarray(at, at + step));
  return parser;
}

it.each([1, 7, 1 << 20])(
  'a held stream is whole when QEMU has nothing to send (%i bytes at a time)',
  (step) => {
    expect(pushed(OPENING, step).memoryIsWhole).toBe(false);
    expect(pushed(bytes(OPENING, PAGES), step).memoryIsWhole).toBe(false);
    const parser = pushed(bytes(OPENING, PAGES, NOTHING, NOTHING), step);
    expect(parser.memoryIsWhole).toBe(true);
    expect(parser.endHeld(SAVED_DEVICES)).toMatchObject({
      deviceState: DEVICE_STATE,
      description: Buffer.from('{}'),
      machineName: 'pc-q35-7.2',
      dataPageCount: 1,
      fillPageCount: 1,
    });
  },
);

it('neither half a memory nor half the devices are taken for whole', () => {
  const truncated = expect.objectContaining({ code: 'STREAM_TRUNCATED' }) as unknown;
  expect(() => pushed(bytes(OPENING, PAGES), 64).endHeld(SAVED_DEVICES)).toThrow(truncated);
  const parser = pushed(bytes(OPENING, PAGES, NOTHING), 64);
  for (const cut of [0, 4, 8, SAVED_DEVICES.length - 1])
    expect(() => parser.endHeld(SAVED_DEVICES.subarray(0, cut))).toThrow(truncated);
});

it('dirty bitmaps are refused in a stream that is not held', () => {
  const parser = new StreamParser({ onLayout: () => ({ fill: () => undefined, data: () => undefined }) });
  expect(() => parser.push(OPENING)).toThrow(/no command but SWITCHOVER_START/);
});

it('the state of the machine is read and replaced among its devices', () => {
  const name = bytes(ascii('running'), Buffer.alloc(25), '0101', Buffer.alloc(66));
  const devices = bytes(
    '04',
    be32(9),
    counted('globalstate'),
    be32(0),
    be32(1),
    be32(8),
    name,
    '7e',
    be32(9),
  );
  expect(globalStateIn(devices)).toEqual({ name: 'running', sleeps: true });
  const paused = withGlobalState(devices, 'io-error');
  expect(globalStateIn(paused)).toEqual({ name: 'io-error', sleeps: true });
  expect(paused.length).toBe(devices.length);
  expect(asUnpaused(paused)).toEqual(paused);
  expect(globalStateIn(asUnpaused(withGlobalState(devices, 'paused')))).toEqual({
    name: 'suspended',
    sleeps: true,
  });
  expect(globalStateIn(Buffer.alloc(40))).toEqual({ name: 'running', sleeps: false });
});
