/** Named arguments at the addon's boundary: both sides must know the same names. */
import { expect, test } from 'vitest';
import { loadAddon } from '../../../src/native/addon.js';

interface Raw {
  readonly waitsAt: (options: object) => boolean;
  readonly FaultServer: new (options: object) => object;
}

const known = { userfaultfd: 0, start: 0, end: 4096, pageBytes: 4096 };

test('a name that is missing is an error', () => {
  const { userfaultfd, ...rest } = known;
  expect(userfaultfd).toBe(0);
  expect(() => loadAddon<Raw>().waitsAt(rest)).toThrow('the argument userfaultfd is missing');
  expect(() => new (loadAddon<Raw>().FaultServer)({})).toThrow(/the argument \w+ is missing/);
});

test('a name that is unknown is an error', () => {
  expect(() => loadAddon<Raw>().waitsAt({ ...known, pagebytes: 1 })).toThrow(
    'the argument pagebytes is unknown',
  );
});

test('arguments without names are an error', () => {
  expect(() => loadAddon<Raw>().waitsAt(known.userfaultfd as unknown as object)).toThrow(
    'expected named arguments',
  );
});
