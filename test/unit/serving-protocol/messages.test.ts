import { expect, test } from 'vitest';
import { fromArguments, toArguments } from '../../../src/serving-protocol/arguments.js';
import { decodeServerMessage, decodeVerbMessage, encode } from '../../../src/serving-protocol/messages.js';
import type { ServingOrder } from '../../../src/serving-protocol/order.js';

const ORDER: ServingOrder = {
  mode: 'lazy',
  preempt: 'off',
  capabilities: ['events', 'postcopy-ram'],
  memory: { pid: 4711, blocks: [{ blockName: 'pc.ram', hostAddress: 0x7f00_0000_0000 }] },
  hugePages: { 'pc.ram': 2 << 20 },
  aftercare: { isClone: true, networks: [{ id: 'net0' }] },
  runs: true,
  background: 'when-told',
  exactly: false,
};

test('every message is one line, and read as it was written', () => {
  for (const message of [
    { type: 'qemu-ready' },
    { type: 'order', order: ORDER },
    { type: 'fill' },
  ] as const) {
    const line = encode(message);
    expect(line.match(/\n/g)).toHaveLength(1);
    expect(decodeVerbMessage(line)).toEqual(message);
  }
  const failed = { type: 'failed', code: 'EXTENT_DAMAGED', message: 'extent 7 is damaged' } as const;
  for (const message of [{ type: 'checkpoint-opened' }, { type: 'machine-loaded' }, failed] as const)
    expect(decodeServerMessage(encode(message))).toEqual(message);
});

test('a message of another version, or of no sense, is refused with what was expected', () => {
  const refused = (line: string) => {
    try {
      return decodeVerbMessage(line);
    } catch (error) {
      return (error as Error).message;
    }
  };
  expect(refused('{"version":2,"type":"fill"}')).toBe('the verb uses version 2 of the protocol, expected 1');
  expect(refused('{"type":"fill"}')).toContain('version undefined');
  expect(refused('')).toContain('is malformed');
  expect(refused('null')).toContain('version undefined');
  expect(refused('{"version":1,"type":"dance"}')).toContain('is malformed');
  expect(refused(encode({ type: 'order', order: { ...ORDER, background: 'later' as never } }))).toContain(
    'order.background',
  );
});

test('a serving process is started with what it reads', () => {
  const generation = { name: 'web', number: 1, dir: '/store/web/1', id: 'f'.repeat(32) };
  const first = { name: 'web', generation, wishes: undefined, isSuccessor: false };
  expect(fromArguments(toArguments(first))).toEqual(first);
  const successor = { ...first, isSuccessor: true };
  expect(fromArguments(toArguments(successor))).toEqual(successor);
});
