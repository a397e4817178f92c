import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { refusingForeign } from '../../../src/interchange/foreign-formats.js';

const STREAM = Buffer.concat([Buffer.from('5145564d00000003', 'hex'), Buffer.alloc(100, 'x')]);

async function* cut(bytes: Buffer, length: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length);
}

async function read(bytes: Buffer, { length = 1 << 16, name = 'a file' } = {}): Promise<Buffer> {
  const pieces = [];
  for await (const piece of refusingForeign(cut(bytes, length), name)) pieces.push(piece);
  return Buffer.concat(pieces);
}

describe('an import', () => {
  it('takes a plain stream as it comes, and what it does not know', async () => {
    for (const length of [1, 3, 1 << 16])
      for (const bytes of [STREAM, Buffer.from('QEV'), Buffer.from('no stream'), Buffer.alloc(3 << 20, 1)])
        expect((await read(bytes, { length: Math.max(length, bytes.length >> 10) })).equals(bytes)).toBe(
          true,
        );
  });

  it.each([
    ['gzip', 'zcat', () => execFileSync('gzip', ['-c'], { input: STREAM })],
    ['xz', 'xzcat', () => Buffer.from('fd377a585a000004', 'hex')],
    ['zstd', 'zstdcat', () => Buffer.from('28b52ffd04580000', 'hex')],
    ['bzip2', 'bzcat', () => Buffer.from('BZh91AY&SY')],
    ['lz4', 'lz4cat', () => Buffer.from('04224d186440a7', 'hex')],
    ['lzop', 'lzop -dc', () => Buffer.from('894c5a4f000d0a1a0a1040', 'hex')],
  ])('names what is compressed by %s, and how it is unpacked', async (what, program, bytes) => {
    for (const length of [1, 1 << 16])
      await expect(read(bytes(), { length })).rejects.toMatchObject({
        code: 'FORMAT_UNSUPPORTED',
        message: `expected a plain QEMU stream, but a file is compressed by ${what}`,
        hint: `unpack it on the way: ${program} 'a file' | vmckpt import - NAME`,
      });
  });

  it.each([
    ['a qcow2 image', Buffer.from('QFI\xfb\0\0\0\x03', 'latin1'), /-loadvm/],
    ['a libvirt save file', Buffer.concat([Buffer.from('LibvirtQemudSave'), STREAM]), /virsh restore/],
    ['an ELF file', Buffer.from('\x7fELF\x02\x01', 'latin1'), /vmckpt save/],
  ])('names %s', async (what, bytes, hint) => {
    await expect(read(bytes)).rejects.toMatchObject({
      code: 'FORMAT_UNSUPPORTED',
      message: expect.stringContaining(what) as string,
      hint: expect.stringMatching(hint) as string,
    });
  });

  it('names the offset at which a stream begins, and the command that leaves out what is before it', async () => {
    for (const offset of [1, 512, 4096, 700_001])
      for (const length of [1000, 1 << 16]) {
        const bytes = Buffer.concat([Buffer.alloc(offset, 'h'), STREAM]);
        await expect(read(bytes, { length, name: '-' })).rejects.toMatchObject({
          code: 'FORMAT_UNSUPPORTED',
          message: `expected a plain QEMU stream, but in - it begins at offset ${offset}`,
          hint: `leave out what is before it: tail -c +${offset + 1} | vmckpt import - NAME`,
        });
      }
  });

  it('names an empty file', async () => {
    await expect(read(Buffer.alloc(0))).rejects.toMatchObject({
      code: 'STREAM_TRUNCATED',
      message: 'expected a plain QEMU stream, but a file is empty',
    });
  });
});
