/** Whether an engine keeps two writers apart. Some accept the condition of a write and do not look at it. */
import { VmckptError } from '../../errors.js';
import { randomU32 } from '../../util/random.js';
import type { Bucket } from './bucket.js';

/** Creates one object twice: the second time must be refused. @throws VmckptError S3_UNCONDITIONAL */
export async function requireConditions(bucket: Bucket): Promise<void> {
  const key = `condition-${randomU32()}-${randomU32()}`;
  const content = Buffer.from('vmckpt looks whether conditional writes work\n');
  try {
    await bucket.write(key, content);
    if (!(await bucket.create(key, content))) return;
  } finally {
    await bucket.delete(key);
  }
  throw new VmckptError(
    'S3_UNCONDITIONAL',
    `${bucket.label}: the engine ignores If-None-Match, so that it does not keep two writers apart`,
    {
      hint: 'Reading works. To write, use Amazon S3, Ceph, or another engine with conditional writes.',
    },
  );
}
