import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { readPages, UNCHANGED_PAGE, type PageReadOptions } from '../../../src/native/index.js';
import { PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { startWritten, type Written } from '../../contracts/write-tracker.js';
import { suiteDirectory } from '../../support/vitest.js';

const SOURCE = path.join(import.meta.dirname, '../../contracts/written-process.c');

const program = path.join(suiteDirectory(), 'written-process');
beforeAll(() => {
  execFileSync('cc', ['-O1', '-Wall', '-Werror', '-pthread', '-o', program, SOURCE]);
});

/** Of the pages `runs` in the process's memory, in shared memory as a worker thread has it. */
function reading(
  { pid, options }: Written,
  runs: readonly (readonly [page: number, count: number])[],
): PageReadOptions & { readonly hashes: BigUint64Array } {
  const address = options.regions[0]!.address;
  const pageCount = runs.reduce((sum, [, count]) => sum + count, 0);
  return {
    pid,
    runs: BigUint64Array.from(
      runs.flatMap(([page, count]) => [BigInt(address + page * PAGE_BYTES), BigInt(count)]),
    ),
    into: new Uint8Array(new SharedArrayBuffer(pageCount * PAGE_BYTES)),
    kinds: new Uint8Array(new SharedArrayBuffer(pageCount)),
    fills: new Uint8Array(new SharedArrayBuffer(pageCount)),
    hashes: new BigUint64Array(new SharedArrayBuffer(16 * pageCount)),
  };
}

describe('readPages', () => {
  test('tells what each page is, and puts the data side by side', async () => {
    const written = await startWritten(program, 'small');
    // One byte in each page of data; pages that hold nothing but 5; pages never touched.
    await written.does('write 0 200 3 9');
    await written.does('kernel 1 5');
    await written.does('kernel 302 5');
    const options = reading(written, [
      [0, 150],
      [300, 4],
      [6000, 2],
    ]);
    const count = readPages(options);
    const pages = [...Array.from({ length: 150 }, (_, at) => at), 300, 301, 302, 303, 6000, 6001];
    const isData = (page: number): boolean => page % 3 === 0 && page < 600;
    const isFive = (page: number): boolean => page === 1 || page === 302;
    expect([...options.kinds]).toEqual(
      pages.map((page) =>
        isData(page) ? PAGE_KINDS.data : isFive(page) ? PAGE_KINDS.fill : PAGE_KINDS.zero,
      ),
    );
    expect([...options.fills]).toEqual(pages.map((page) => (isFive(page) ? 5 : 0)));
    const data = pages.filter(isData);
    expect(count).toBe(data.length);
    const memory = written.bytes();
    for (const [at, page] of data.entries())
      expect(
        Buffer.compare(
          options.into.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES),
          memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES),
        ),
      ).toBe(0);
  });

  test('leaves out what has the hash that was expected, of every kind', async () => {
    const written = await startWritten(program, 'small');
    await written.does('write 0 4 1 9');
    await written.does('kernel 5 5');
    const before = reading(written, [[0, 8]]);
    expect(readPages(before)).toBe(4);
    await written.does('write 2 1 1 8');
    await written.does('write 5 1 1 8');
    await written.does('kernel 6 1');
    const after = { ...reading(written, [[0, 8]]), expected: before.hashes };
    expect(readPages(after)).toBe(2);
    const { fill, data } = PAGE_KINDS;
    const same = UNCHANGED_PAGE;
    expect([...after.kinds]).toEqual([same, same, data, same, same, data, fill, same]);
    expect([...readAll(after.hashes, [0, 1, 3, 4, 7])]).toEqual([...readAll(before.hashes, [0, 1, 3, 4, 7])]);
    expect(after.hashes[4]).not.toBe(before.hashes[4]);
  });

  test('reads the same without hashes', async () => {
    const written = await startWritten(program, 'small');
    await written.does('write 0 4 1 9');
    await written.does('kernel 5 5');
    const hashed = reading(written, [[0, 8]]);
    const plain = { ...reading(written, [[0, 8]]), hashes: undefined };
    expect(readPages(plain)).toBe(readPages(hashed));
    expect(plain).toEqual({ ...hashed, hashes: undefined });
  });

  test('expects nothing where the hash is not known', async () => {
    const written = await startWritten(program, 'small');
    const options = { ...reading(written, [[0, 2]]), expected: new BigUint64Array(4) };
    readPages(options);
    expect([...options.kinds]).toEqual([PAGE_KINDS.zero, PAGE_KINDS.zero]);
  });

  test('fails where there is no memory, no process, and no room', async () => {
    const written = await startWritten(program, 'small');
    const options = reading(written, [[0, 2]]);
    const nowhere = { ...options, runs: BigUint64Array.of(4096n, 2n) };
    expect(() => readPages(nowhere)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(() => readPages({ ...options, pid: 2 ** 22 + 1 })).toThrow(
      expect.objectContaining({ code: 'ESRCH' }),
    );
    expect(() => readPages({ ...options, into: options.into.subarray(1) })).toThrow(RangeError);
  });
});

function* readAll(hashes: BigUint64Array, pages: readonly number[]): Generator<bigint> {
  for (const page of pages) yield* [hashes[2 * page]!, hashes[2 * page + 1]!];
}
