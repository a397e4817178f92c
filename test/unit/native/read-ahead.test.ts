import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'vitest';
import { bringTo, cachedBytes } from '../../../src/bench/page-cache.js';
import { readAhead } from '../../../src/native/index.js';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';
import { until } from '../../support/until.js';

const BYTES = 16 << 20;

test('a file is read ahead to its end, however little the kernel reads at a time', async () => {
  // On a disk: on a tmpfs there is nothing to be read.
  const dir = mkdtempSync(path.join(PACKAGE_ROOT, '.cache', 'read-ahead-'));
  try {
    const file = path.join(dir, 'file');
    writeFileSync(file, Buffer.alloc(BYTES, 7));
    await bringTo('cold', [file]);
    // Again and again: the kernel may take pages back. What is not read ahead at all never comes.
    const isWhole = async () => {
      await readAhead(file, { lengthBytes: BYTES });
      return (await cachedBytes([file])) === BYTES;
    };
    await until('the file to be read', isWhole);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('no more of a file is read ahead than it may hold', async () => {
  const dir = mkdtempSync(path.join(PACKAGE_ROOT, '.cache', 'read-ahead-'));
  try {
    const file = path.join(dir, 'file');
    writeFileSync(file, 'short');
    truncateSync(file, 3 * 2 ** 40);
    await readAhead(file, { lengthBytes: BYTES });
  } finally {
    rmSync(dir, { recursive: true });
  }
});
