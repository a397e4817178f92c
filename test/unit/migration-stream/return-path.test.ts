import { describe, expect, it } from 'vitest';
import { type ReturnPathMessage, ReturnPathParser } from '../../../src/migration-stream/return-path.js';
import { be32, be64, bytes, counted, SMALL_LAYOUT } from './streams.js';

const END_MARK = '0123456789abcdef';

function message(type: number, ...payload: readonly string[]): string {
  const body = payload.join('');
  return type.toString(16).padStart(4, '0') + (body.length / 2).toString(16).padStart(4, '0') + body;
}

function receive(pieces: readonly Uint8Array[]): ReturnPathMessage[] {
  const messages: ReturnPathMessage[] = [];
  const parser = new ReturnPathParser(SMALL_LAYOUT, (received) => messages.push(received));
  for (const piece of pieces) parser.push(piece);
  return messages;
}

const CONVERSATION = bytes(
  message(2, be32(7)),
  message(3, be64(0x2000), be32(0x1000), counted('pc.ram')),
  message(4, be64(0x6000), be32(0x2000)),
  message(3, be64(0x0000), be32(0x1000), counted('pc.bios')),
  message(4, be64(0x0000), be32(0x1000)),
  message(5, counted('/rom@etc/acpi/tables')),
  be64(8),
  '0200000000000000',
  END_MARK,
  message(6, be32(1)),
  message(7),
  message(1, be32(0)),
);

const UNDERSTOOD: readonly ReturnPathMessage[] = [
  { type: 'pong', value: 7 },
  { type: 'requestPages', page: 2, pageCount: 1 },
  { type: 'requestPages', page: 6, pageCount: 2 },
  { type: 'requestPages', page: 10, pageCount: 1 },
  { type: 'requestPages', page: 10, pageCount: 1 },
  {
    type: 'receivedBitmap',
    blockName: '/rom@etc/acpi/tables',
    bitmap: Buffer.from('0200000000000000', 'hex'),
  },
  { type: 'resumeAck', value: 1 },
  { type: 'switchoverAck' },
  { type: 'shut', status: 0 },
];

describe('ReturnPathParser', () => {
  it('understands every message', () => {
    expect(receive([CONVERSATION])).toEqual(UNDERSTOOD);
  });

  it('understands them wherever a cut falls, and byte by byte', () => {
    for (let cut = 1; cut < CONVERSATION.length; cut++)
      expect(receive([CONVERSATION.subarray(0, cut), CONVERSATION.subarray(cut)])).toEqual(UNDERSTOOD);
    expect(receive(Array.from(CONVERSATION, (byte) => Uint8Array.of(byte)))).toEqual(UNDERSTOOD);
  });

  it('delivers a message as soon as its last byte is there', () => {
    const messages: ReturnPathMessage[] = [];
    const parser = new ReturnPathParser(SMALL_LAYOUT, (received) => messages.push(received));
    parser.push(bytes('0002', '0004', '000000'));
    expect(messages).toHaveLength(0);
    parser.push(Uint8Array.of(9));
    expect(messages).toEqual([{ type: 'pong', value: 9 }]);
  });

  it('wants the block named again after a recovery', () => {
    const parser = new ReturnPathParser(SMALL_LAYOUT, () => undefined);
    parser.push(bytes(message(3, be64(0), be32(0x1000), counted('pc.ram'))));
    parser.push(bytes(message(4, be64(0), be32(0x1000))));
    parser.forgetRequestBlock();
    expect(() => parser.push(bytes(message(4, be64(0), be32(0x1000))))).toThrow(/names its RAM block/);
  });

  it.each([
    ['an unknown type', [message(8)], /byte 0: expected a message type 1–7, found 8/],
    ['a wrong length', [message(2, be64(1))], /byte 2: expected 4–4 bytes of message type 2, found 8/],
    ['a request without a block', [message(4, be64(0), be32(0x1000))], /names its RAM block/],
    ['an unknown block', [message(3, be64(0), be32(0x1000), counted('x'))], /"x"/],
    ['an unaligned request', [message(3, be64(1), be32(0x1000), counted('pc.ram'))], /4096 bytes from 1 on/],
    ['a request for half a page', [message(3, be64(0), be32(0x800), counted('pc.ram'))], /2048 bytes/],
    ['a request for nothing', [message(3, be64(0), be32(0), counted('pc.ram'))], /0 bytes from 0/],
    [
      'a request beyond the block',
      [message(3, be64(0x7000), be32(0x2000), counted('pc.ram'))],
      /8192 bytes from 28672/,
    ],
    ['a request far beyond', [message(3, 'fffffffffffff000', be32(0x1000), counted('pc.ram'))], /"pc.ram"/],
    ['a name that is shorter than said', [message(5, '05', '6162')], /a name of 2 bytes.* found 5/],
    [
      'a huge bitmap',
      [message(5, counted('pc.ram')), be64(2 ** 40)],
      /a bitmap of 8 bytes .* found 1099511627776/,
    ],
    ['a short bitmap', [message(5, counted('pc.ram')), be64(0)], /a bitmap of 8 bytes/],
    [
      'a bitmap without its end mark',
      [message(5, counted('pc.ram')), be64(8), be64(0), be64(1)],
      /expected a bitmap's end mark/,
    ],
  ] as const)('refuses %s, and stays refused', (_, parts, expected) => {
    const parser = new ReturnPathParser(SMALL_LAYOUT, () => undefined);
    expect(() => parser.push(bytes(...parts))).toThrow(expected);
    expect(() => parser.push(CONVERSATION)).toThrow(expected);
  });
});
