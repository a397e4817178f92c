/**
 * Brings files into the page cache, or out of it, and makes sure of that: fincore(1) asks the kernel which of their
 * pages it holds (mincore(2)).
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { finite, parse } from '../util/schema.js';
import { formatBytes } from '../util/units.js';

export type CacheState = 'warm' | 'cold';

const run = promisify(execFile);
/** A few pages that something else reads meanwhile do no harm. */
const TOLERANCE = 0.001;
const READ_BYTES = 1 << 20;
const ATTEMPTS = 3;

const Fincore = v.object({
  fincore: v.array(v.object({ res: v.pipe(v.unknown(), v.transform(Number), finite) })),
});

/** @throws VmckptError FAILED when the page cache does not do as it is told: on a tmpfs it cannot */
export async function bringTo(state: CacheState, files: readonly string[]): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    for (const file of files) await (state === 'warm' ? read(file) : drop(file));
    try {
      return await verify(state, files);
    } catch (error) {
      // The kernel may have taken some of it back meanwhile, or be still at it.
      if (attempt === ATTEMPTS) throw error;
    }
  }
}

/** Bytes of these files that are in the page cache. */
export async function cachedBytes(files: readonly string[]): Promise<number> {
  if (files.length === 0) return 0;
  const { stdout } = await run('fincore', ['--json', '--bytes', '--output', 'RES', '--', ...files]);
  return parse(Fincore, JSON.parse(stdout)).fincore.reduce((sum, { res }) => sum + res, 0);
}

async function verify(state: CacheState, files: readonly string[]): Promise<void> {
  const cached = await cachedBytes(files);
  // Holes of sparse files are pages too, once they have been read.
  const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size));
  const total = sizes.reduce((sum, bytes) => sum + bytes, 0);
  const wrongBytes = state === 'warm' ? total - cached : cached;
  if (wrongBytes <= total * TOLERANCE) return;
  throw new VmckptError(
    'FAILED',
    `${formatBytes(cached)} of ${formatBytes(total)} are in the page cache, expected ${state === 'warm' ? 'all' : 'none'}: ${files.join(', ')}`,
    {
      hint:
        state === 'warm'
          ? 'The files do not fit into memory beside the guest: use a smaller --ram-mib.'
          : 'Put --out on a disk: a tmpfs cannot be dropped from memory.',
    },
  );
}

/** Dirty pages cannot be dropped, so they are written first; posix_fadvise(2) is what dd's flag comes down to. */
async function drop(file: string): Promise<void> {
  await run('dd', [`of=${file}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none']);
}

async function read(file: string): Promise<void> {
  const stream = createReadStream(file, { highWaterMark: READ_BYTES });
  await once(stream.resume(), 'close');
}
