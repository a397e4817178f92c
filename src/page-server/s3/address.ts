/** Addresses of stores in buckets: `s3://BUCKET` or `s3://BUCKET/PREFIX`. */
import { VmckptError } from '../../errors.js';

export interface BucketAddress {
  readonly bucket: string;
  /** Before every key: empty, or with a slash at its end. */
  readonly prefix: string;
}

const ADDRESS = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/(.*))?$/;
const PREFIX = /^(?:[A-Za-z0-9][A-Za-z0-9._-]*\/)*$/;
const MAX_PREFIX_LENGTH = 512;

export function isBucketAddress(text: string): boolean {
  return text.startsWith('s3:');
}

/** @throws VmckptError USAGE */
export function parseBucketAddress(text: string): BucketAddress {
  const [, bucket, path = ''] = ADDRESS.exec(text) ?? [];
  const prefix = path === '' || path.endsWith('/') ? path : `${path}/`;
  if (bucket !== undefined && prefix.length <= MAX_PREFIX_LENGTH && PREFIX.test(prefix))
    return { bucket, prefix };
  throw new VmckptError('USAGE', `"${text}" is no address of a store in a bucket`, {
    hint: 'For example s3://bucket/prefix. A prefix has letters, digits, ".", "_" and "-" between its slashes.',
  });
}

export function formatBucketAddress({ bucket, prefix }: BucketAddress): string {
  return `s3://${bucket}/${prefix}`.replace(/\/$/, '');
}
