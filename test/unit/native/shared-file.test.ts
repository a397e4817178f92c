/** Words in a file that several processes map. Two mappings of one file stand for two processes. */
import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { mapShared, SharedWord } from '../../../src/native/index.js';
import { temporaryDirectory } from './temporary.js';

const LONG_MS = 600_000;

function sharedFile(bytes = 4096) {
  const file = `${temporaryDirectory()}/shared`;
  const map = () => {
    const fd = openSync(file, 'r+');
    const mapped = mapShared(fd);
    closeSync(fd);
    return mapped;
  };
  const fd = openSync(file, 'w+');
  ftruncateSync(fd, bytes);
  onTestFinished(() => closeSync(fd));
  return { file, fd, map };
}

test('what is written to a mapping is in the file, and in every other one', () => {
  const { file, map } = sharedFile();
  const [one, other] = [map(), map()];
  one[4095] = 7;
  expect([one.length, other[4095], readFileSync(file)[4095]]).toEqual([4096, 7, 7]);
});

test('who waits for a word is woken when another raises it', async () => {
  const { map } = sharedFile();
  const [one, other] = [new SharedWord(map(), 8), new SharedWord(map(), 8)];
  const changed = one.changed(one.value, LONG_MS);
  other.raise();
  await changed;
  expect([one.value, other.value]).toEqual([1, 1]);
  await one.changed(0, LONG_MS);
  await one.changed(1, 1);
  expect(one.value).toBe(1);
});

test('a word is counted on from its greatest value', () => {
  const { map } = sharedFile();
  const bytes = map();
  bytes.fill(0xff, 0, 4);
  const word = new SharedWord(bytes, 0);
  expect(word.value).toBe(0xffff_ffff);
  word.raise();
  expect(word.value).toBe(0);
});

test('an empty file and a word beside the mapping are refused', () => {
  const { fd, map } = sharedFile();
  expect(() => new SharedWord(map(), 4096)).toThrow(RangeError);
  expect(() => new SharedWord(map(), 2)).toThrow(RangeError);
  ftruncateSync(fd, 0);
  expect(map).toThrow(expect.objectContaining({ code: 'EINVAL', syscall: 'mmap' }));
});
