/**
 * Damaged streams through the whole import. A plain stream has no checksums, so damage within a page's bytes cannot
 * be noticed: an import either fails and leaves nothing, or holds exactly what the damaged stream says.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { VmckptError } from '../../src/errors.js';
import { importPieces, readGeneration, readStream, type Machine } from '../unit/interchange/machines.js';
import { buildStream, SMALL_STREAM } from '../unit/migration-stream/streams.js';

const RUNS = 320;
const STREAM = buildStream(SMALL_STREAM);
/** Where the stream is not page contents: damage there is what an import can notice. */
const STRUCTURE = [
  ...STREAM.subarray(0, 200).keys(),
  ...Array.from({ length: 300 }, (_, index) => STREAM.length - 1 - index),
].filter((at) => at >= 0);

const positions = fc.oneof(
  fc.nat(STREAM.length - 1),
  fc.nat(STRUCTURE.length - 1).map((index) => STRUCTURE[index]!),
);

const damages = fc.oneof(
  fc.record({ kind: fc.constant('cut' as const), at: positions }),
  fc.record({ kind: fc.constant('flip' as const), at: positions, bit: fc.nat(7) }),
  fc.record({
    kind: fc.constant('overwrite' as const),
    at: positions,
    bytes: fc.uint8Array({ maxLength: 40 }),
  }),
  fc.record({ kind: fc.constant('insert' as const), at: positions, bytes: fc.uint8Array({ maxLength: 40 }) }),
  fc.record({
    kind: fc.constant('remove' as const),
    at: positions,
    byteCount: fc.integer({ min: 1, max: 5000 }),
  }),
);
type Damage = typeof damages extends fc.Arbitrary<infer T> ? T : never;

function damage(stream: Buffer, { at, ...how }: Damage): Buffer {
  const bytes = Buffer.from(stream);
  const [before, after] = [bytes.subarray(0, at), bytes.subarray(at)];
  switch (how.kind) {
    case 'cut':
      return before;
    case 'flip':
      bytes[at]! ^= 1 << how.bit;
      return bytes;
    case 'overwrite':
      bytes.set(how.bytes.subarray(0, after.length), at);
      return bytes;
    case 'insert':
      return Buffer.concat([before, how.bytes, after]);
    case 'remove':
      return Buffer.concat([before, after.subarray(how.byteCount)]);
  }
}

/** What the damaged stream says, or undefined when it is none. */
function meaningOf(stream: Buffer): Machine | undefined {
  try {
    return readStream(stream);
  } catch (error) {
    if (error instanceof VmckptError) return undefined;
    throw error;
  }
}

it(
  'gives an error and an empty store, or exactly what the damaged stream says',
  { timeout: 300_000 },
  async () => {
    const outcomes = { refused: 0, imported: 0 };
    const property = fc.asyncProperty(
      fc.array(damages, { minLength: 1, maxLength: 3 }),
      fc.nat(),
      async (all, cut) => {
        const stream = all.reduce(
          (bytes, one) => damage(bytes, { ...one, at: one.at % (bytes.length + 1) }),
          STREAM,
        );
        const half = cut % (stream.length + 1);
        const storeDir = mkdtempSync(path.join(tmpdir(), 'vmckpt-test-'));
        try {
          const meaning = meaningOf(stream);
          const imported = importPieces([stream.subarray(0, half), stream.subarray(half)], { storeDir });
          if (meaning === undefined) {
            await expect(imported).rejects.toBeInstanceOf(VmckptError);
            expect(readdirSync(storeDir)).toEqual([]);
            outcomes.refused++;
          } else {
            await imported;
            expect(await readGeneration(storeDir)).toEqual(meaning);
            outcomes.imported++;
          }
        } finally {
          rmSync(storeDir, { recursive: true, force: true });
        }
      },
    );
    await fc.assert(property, { numRuns: RUNS, endOnFailure: true });
    expect(outcomes.refused).toBeGreaterThan(RUNS / 4);
    expect(outcomes.imported).toBeGreaterThan(RUNS / 20);
  },
);
