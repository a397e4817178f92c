/** Random streams, random cuts, random damage: the parser gives the same pages, or a VmckptError. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VmckptError } from '../../src/errors.js';
import { type ReturnPathMessage, ReturnPathParser } from '../../src/migration-stream/return-path.js';
import { PAGE_BYTES, RamLayout } from '../../src/pages/layout.js';
import {
  be32,
  be64,
  buildStream,
  bytes,
  counted,
  fullSection,
  parse,
  type PageOp,
  SMALL_LAYOUT,
  SMALL_STREAM,
  storedOf,
  type StreamParts,
} from '../unit/migration-stream/streams.js';

const DAMAGE_RUNS = 3000;

const layouts = fc
  .uniqueArray(fc.tuple(fc.string({ minLength: 1, maxLength: 20, unit: 'grapheme-ascii' }), fc.nat(40)), {
    minLength: 1,
    maxLength: 5,
    selector: ([name]) => name,
  })
  // The list of blocks ends when their sizes add up, so an empty block cannot be its last.
  .map((blocks) => blocks.map(([name, pages]) => ({ name, usedBytes: (pages + 1) * PAGE_BYTES })))
  .map((blocks) => new RamLayout(blocks));

const ops = (pageCount: number): fc.Arbitrary<PageOp> => {
  const page = fc.nat(pageCount - 1);
  return fc.oneof(
    fc.record({ page, fill: fc.constantFrom(0, 0, 0x5a) }),
    fc.record({ page, seed: fc.nat(255) }),
  );
};

const deviceStates = fc
  .array(
    fc.record({
      id: fc.nat(500),
      name: fc.string({ maxLength: 12, unit: 'grapheme-ascii' }),
      data: fc.uint8Array(),
    }),
    {
      minLength: 1,
      maxLength: 4,
    },
  )
  .map((sections) => Buffer.concat(sections.map(({ id, name, data }) => fullSection(id, name, data))));

const streams: fc.Arbitrary<StreamParts> = layouts.chain((layout) =>
  fc.record({
    layout: fc.constant(layout),
    parts: fc.array(fc.array(ops(layout.pageCount), { maxLength: 12 }), { minLength: 1, maxLength: 4 }),
    background: fc.boolean(),
    deviceState: deviceStates,
    description: fc.oneof(
      fc.constant(Buffer.alloc(0)),
      fc.json().map((json) => Buffer.from(`{"devices": ${json}}`)),
    ),
  }),
);

/** Cuts at the given fractions of the length, in any order. */
function cutAt(whole: Uint8Array, fractions: readonly number[]): Uint8Array[] {
  const cuts = fractions.map((fraction) => Math.floor(fraction * whole.length)).sort((a, b) => a - b);
  return [0, ...cuts].map((from, i) => whole.subarray(from, cuts[i] ?? whole.length));
}

const fractions = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 30 });

type Damage =
  | { kind: 'flip'; at: number; bit: number }
  | { kind: 'set'; at: number; value: number }
  | { kind: 'cut'; at: number }
  | { kind: 'insert'; at: number; bytes: Uint8Array }
  | { kind: 'remove'; at: number; count: number };

/** Mostly within the dense bytes that frame the pages: positions are drawn from the start and the end too. */
const positions = fc.oneof(
  fc.double({ min: 0, max: 1, noNaN: true }),
  fc.double({ min: 0, max: 0.02, noNaN: true }),
  fc.double({ min: 0.98, max: 1, noNaN: true }),
);

const damages: fc.Arbitrary<Damage> = fc.oneof(
  fc.record({ kind: fc.constant('flip' as const), at: positions, bit: fc.nat(7) }),
  fc.record({
    kind: fc.constant('set' as const),
    at: positions,
    value: fc.constantFrom(0, 1, 4, 8, 0x7f, 0xff),
  }),
  fc.record({ kind: fc.constant('cut' as const), at: positions }),
  fc.record({
    kind: fc.constant('insert' as const),
    at: positions,
    bytes: fc.uint8Array({ minLength: 1, maxLength: 20 }),
  }),
  fc.record({
    kind: fc.constant('remove' as const),
    at: positions,
    count: fc.integer({ min: 1, max: 5000 }),
  }),
);

function applyDamage(whole: Buffer, damage: Damage): Buffer {
  const at = Math.min(whole.length - 1, Math.floor(damage.at * whole.length));
  switch (damage.kind) {
    case 'flip':
    case 'set': {
      const damaged = Buffer.from(whole);
      damaged[at] = damage.kind === 'set' ? damage.value : damaged[at]! ^ (1 << damage.bit);
      return damaged;
    }
    case 'cut':
      return whole.subarray(0, at);
    case 'insert':
      return Buffer.concat([whole.subarray(0, at), damage.bytes, whole.subarray(at)]);
    case 'remove':
      return Buffer.concat([whole.subarray(0, at), whole.subarray(at + damage.count)]);
  }
}

/** Runs what may throw; anything but a VmckptError fails the test. */
function attempt<T>(action: () => T): T | VmckptError {
  try {
    return action();
  } catch (error) {
    if (error instanceof VmckptError) return error;
    throw error;
  }
}

describe('the migration stream', () => {
  it('carries any pages, devices and description through serializer and parser, however it is cut', () => {
    fc.assert(
      fc.property(streams, fractions, (stream, cuts) => {
        const whole = buildStream(stream);
        const parsed = parse(cutAt(whole, cuts));
        expect(parsed.pages).toEqual(stream.parts.flat().map(storedOf));
        expect(parsed.layout.blocks).toEqual(stream.layout.blocks);
        expect(parsed.deviceState).toEqual(stream.deviceState);
        expect(parsed.description).toEqual(stream.description);
        expect(parsed.byteCount).toBe(whole.length);
      }),
      { numRuns: 300 },
    );
  });

  it('is parsed or refused with a VmckptError when damaged, with pages only inside the RAM', () => {
    const whole = buildStream(SMALL_STREAM);
    fc.assert(
      fc.property(fc.array(damages, { minLength: 1, maxLength: 4 }), fractions, (applied, cuts) => {
        const damaged = applied.reduce(
          (stream, damage) => (stream.length > 0 ? applyDamage(stream, damage) : stream),
          whole,
        );
        const outcome = attempt(() => parse(cutAt(damaged, cuts)));
        if (outcome instanceof VmckptError) {
          expect(['STREAM_MALFORMED', 'STREAM_TRUNCATED']).toContain(outcome.code);
          return;
        }
        for (const { page } of outcome.pages) expect(page).toBeLessThan(outcome.layout.pageCount);
        expect(outcome.byteCount).toBe(damaged.length);
      }),
      { numRuns: DAMAGE_RUNS },
    );
  });

  it('fails in the same way however a damaged stream is cut', () => {
    const whole = buildStream(SMALL_STREAM);
    const summary = (pieces: readonly Uint8Array[]) => {
      const outcome = attempt(() => parse(pieces));
      return outcome instanceof VmckptError ? `${outcome.code}: ${outcome.message}` : outcome;
    };
    fc.assert(
      fc.property(damages, fractions, (damage, cuts) => {
        const damaged = applyDamage(whole, damage);
        expect(summary(cutAt(damaged, cuts))).toEqual(summary([damaged]));
      }),
      { numRuns: 500 },
    );
  });
});

describe('the return path', () => {
  const conversation = bytes(
    ['0002', '0004', be32(7), '0003', '0013', be64(0x2000), be32(0x1000), counted('pc.ram')].join(''),
    ['0004', '000c', be64(0x6000), be32(0x2000), '0005', '0008', counted('pc.bios')].join(''),
    [be64(8), '0200000000000000', '0123456789abcdef', '0006', '0004', be32(1)].join(''),
    ['0007', '0000', '0001', '0004', be32(0)].join(''),
  );

  it('gives valid requests or a VmckptError when damaged', () => {
    fc.assert(
      fc.property(fc.array(damages, { maxLength: 3 }), fractions, (applied, cuts) => {
        const damaged = applied.reduce(
          (sent, damage) => (sent.length > 0 ? applyDamage(sent, damage) : sent),
          conversation,
        );
        const messages: ReturnPathMessage[] = [];
        const parser = new ReturnPathParser(SMALL_LAYOUT, (message) => messages.push(message));
        const failure = attempt(() => cutAt(damaged, cuts).forEach((piece) => parser.push(piece)));
        if (failure !== undefined) expect(failure.code).toBe('STREAM_MALFORMED');
        for (const message of messages)
          if (message.type === 'requestPages')
            expect(message.page + message.pageCount).toBeLessThanOrEqual(SMALL_LAYOUT.pageCount);
      }),
      { numRuns: DAMAGE_RUNS },
    );
  });
});
