/** Files that are taken for a plain migration stream, told apart by their first bytes. */
import { VmckptError } from '../errors.js';

interface ForeignFormat {
  readonly magic: Uint8Array;
  readonly what: string;
  readonly hint: (input: string) => string;
}

const unpackWith = (program: string) => (input: string) =>
  `unpack it on the way: ${program} ${input} | vmckpt import - NAME`;
const throughLibvirt = (): string =>
  'start it with virsh restore, and save that VM with vmckpt save; reading such files comes later';

const FOREIGN_FORMATS: readonly ForeignFormat[] = [
  { magic: Buffer.from('LibvirtQemud'), what: 'a libvirt save file', hint: throughLibvirt },
  { magic: Buffer.of(0x1f, 0x8b), what: 'compressed by gzip', hint: unpackWith('zcat') },
  { magic: Buffer.of(0x28, 0xb5, 0x2f, 0xfd), what: 'compressed by zstd', hint: unpackWith('zstdcat') },
  { magic: Buffer.from('\xfd7zXZ\0', 'latin1'), what: 'compressed by xz', hint: unpackWith('xzcat') },
];

/**
 * `head` is the beginning of the input, at least what came first from a pipe.
 * @throws VmckptError FORMAT_UNSUPPORTED that names what the input is
 */
export function refuseForeign(head: Uint8Array, input: string): void {
  const found = FOREIGN_FORMATS.find(
    ({ magic }) => Buffer.compare(head.subarray(0, magic.length), magic) === 0,
  );
  if (found === undefined) return;
  throw new VmckptError('FORMAT_UNSUPPORTED', `a plain QEMU stream expected, but ${input} is ${found.what}`, {
    hint: found.hint(input),
  });
}
