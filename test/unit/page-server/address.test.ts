import { describe, expect, test } from 'vitest';
import { isAddress, parseAddresses } from '../../../src/page-server/address.js';
import { parseBucketAddress } from '../../../src/page-server/s3/address.js';

describe('addresses of stores', () => {
  test.each(['tls://host:7070', 'tcp://[::1]:7070', 'unix:/run/store.sock', 's3://bucket'])(
    '%s is one',
    (text) => {
      expect(isAddress(text)).toBe(true);
      expect(parseAddresses(text)).toEqual([text]);
    },
  );

  test('several have commas between them, and each has one form', () => {
    expect(parseAddresses('s3://bucket/a/b/, tls://host:1')).toEqual(['s3://bucket/a/b', 'tls://host:1']);
  });

  test('a bucket has a prefix that ends with a slash, or none', () => {
    expect(parseBucketAddress('s3://my.bucket/a/b')).toEqual({ bucket: 'my.bucket', prefix: 'a/b/' });
    expect(parseBucketAddress('s3://my.bucket/')).toEqual({ bucket: 'my.bucket', prefix: '' });
  });

  test.each(['s3://', 's3:bucket', 's3://Bucket', 's3://bucket//a', 's3://bucket/a b', 's3://bucket/../a'])(
    '%s is none',
    (text) => expect(() => parseAddresses(text)).toThrow('is no address'),
  );
});
