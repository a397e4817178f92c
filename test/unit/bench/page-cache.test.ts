import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { bringTo, cachedBytes } from '../../../src/bench/page-cache.js';
import { until } from '../../support/until.js';
import { suiteDirectory } from '../../support/vitest.js';

const directory = suiteDirectory();
const FILE_BYTES = 4 << 20;

function writeFile(name: string, directoryName = directory): string {
  const file = path.join(directoryName, name);
  writeFileSync(file, Buffer.alloc(FILE_BYTES, 7));
  return file;
}

test('brings files out of the page cache, even just written ones, and back into it', async () => {
  const files = [writeFile('a'), writeFile('b')];
  await bringTo('cold', files);
  expect(await cachedBytes(files)).toBe(0);
  // The kernel may take pages back at any time, on a host that reclaims memory on its own within moments.
  const isWarm = async () => {
    await bringTo('warm', files);
    return (await cachedBytes(files)) === 2 * FILE_BYTES;
  };
  await until('the files to be cached', isWarm);
  expect(await cachedBytes([])).toBe(0);
});

test('says so when memory is all that a file has', async () => {
  const file = writeFile(`vmckpt-${process.pid}`, '/dev/shm');
  try {
    await expect(bringTo('cold', [file])).rejects.toMatchObject({
      code: 'FAILED',
      hint: expect.stringContaining('tmpfs') as string,
    });
  } finally {
    rmSync(file);
  }
});
