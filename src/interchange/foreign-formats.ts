/**
 * Recognizes files that are mistaken for a plain migration stream, by their first bytes or by a stream that begins
 * later.
 */
import { VmckptError } from '../errors.js';
import { STREAM_MAGIC, STREAM_VERSION } from '../migration-stream/constants.js';
import { shellQuote } from '../util/shell.js';

interface ForeignFormat {
  readonly magic: Uint8Array;
  readonly what: string;
  readonly hint: (input: string) => string;
}

/** How far into the input the beginning of a stream is searched for. */
const SEARCHED_BYTES = 1 << 20;
const STREAM_BEGINS = Buffer.alloc(8);
STREAM_BEGINS.writeUInt32BE(STREAM_MAGIC);
STREAM_BEGINS.writeUInt32BE(STREAM_VERSION, 4);

const unpackWith = (program: string) => (input: string) =>
  `unpack it on the way: ${program}${argumentFor(input)} | vmckpt import - NAME`;
const throughLibvirt = (): string =>
  'start it with virsh restore, and save that VM with vmckpt save; reading such files comes later';
const throughSnapshot = (): string =>
  'start its VM with qemu -loadvm SNAPSHOT, if the image holds one, and save that VM with vmckpt save';
const throughSave = (): string => 'it holds no devices: save the VM itself with vmckpt save';

const FOREIGN_FORMATS: readonly ForeignFormat[] = [
  { magic: latin1('LibvirtQemud'), what: 'a libvirt save file', hint: throughLibvirt },
  { magic: latin1('\x1f\x8b'), what: 'compressed by gzip', hint: unpackWith('zcat') },
  { magic: latin1('\x1f\x9d'), what: 'compressed by compress', hint: unpackWith('zcat') },
  { magic: latin1('\x28\xb5\x2f\xfd'), what: 'compressed by zstd', hint: unpackWith('zstdcat') },
  { magic: latin1('\xfd7zXZ\0'), what: 'compressed by xz', hint: unpackWith('xzcat') },
  { magic: latin1('\x5d\0\0'), what: 'compressed by lzma', hint: unpackWith('xzcat') },
  { magic: latin1('BZh'), what: 'compressed by bzip2', hint: unpackWith('bzcat') },
  { magic: latin1('\x04\x22\x4d\x18'), what: 'compressed by lz4', hint: unpackWith('lz4cat') },
  { magic: latin1('\x02\x21\x4c\x18'), what: 'compressed by lz4', hint: unpackWith('lz4cat') },
  { magic: latin1('\x89LZO\0\r\n\x1a\n'), what: 'compressed by lzop', hint: unpackWith('lzop -dc') },
  { magic: latin1('LZIP'), what: 'compressed by lzip', hint: unpackWith('lzip -dc') },
  { magic: latin1('PK\x03\x04'), what: 'a zip archive', hint: unpackWith('unzip -p') },
  { magic: latin1('7z\xbc\xaf\x27\x1c'), what: 'a 7z archive', hint: unpackWith('7z x -so') },
  { magic: latin1('QFI\xfb'), what: 'a qcow2 image', hint: throughSnapshot },
  { magic: latin1('\x7fELF'), what: 'an ELF file, such as dump-guest-memory writes', hint: throughSave },
  { magic: latin1('KDUMP   '), what: 'a kdump file', hint: throughSave },
];

/**
 * Passes the input on once its beginning is known to be none of these formats.
 * @throws VmckptError FORMAT_UNSUPPORTED that names the input's format, STREAM_TRUNCATED when it is empty
 */
export async function* refusingForeign(
  pieces: AsyncIterable<Uint8Array>,
  input: string,
): AsyncGenerator<Uint8Array> {
  let held: Uint8Array[] = [];
  let isDecided = false;
  for await (const piece of pieces) {
    held.push(piece);
    isDecided ||= decide(Buffer.concat(held), input);
    if (!isDecided) continue;
    yield* held;
    held = [];
  }
  if (isDecided) return;
  if (held.every(({ length }) => length === 0))
    throw new VmckptError('STREAM_TRUNCATED', `expected a plain QEMU stream, but ${input} is empty`);
  yield* held;
}

/** @returns false when more input is needed */
function decide(head: Buffer, input: string): boolean {
  if (isPrefix(STREAM_BEGINS, head)) return head.length >= STREAM_BEGINS.length;
  const found = FOREIGN_FORMATS.find(({ magic }) => head.length >= magic.length && isPrefix(magic, head));
  if (found !== undefined) throw foreign(`${input} is ${found.what}`, found.hint(input));
  const offset = head.indexOf(STREAM_BEGINS);
  if (offset > 0)
    throw foreign(
      `in ${input} it begins at offset ${offset}`,
      `leave out what is before it: tail -c +${offset + 1}${argumentFor(input)} | vmckpt import - NAME`,
    );
  return head.length >= SEARCHED_BYTES;
}

/** Compares as many bytes as there are. */
function isPrefix(magic: Uint8Array, head: Buffer): boolean {
  const length = Math.min(magic.length, head.length);
  return head.subarray(0, length).equals(magic.subarray(0, length));
}

/** The argument of a filter: none for standard input. */
function argumentFor(input: string): string {
  return input === '-' ? '' : ` ${shellQuote(input)}`;
}

function foreign(what: string, hint: string): VmckptError {
  return new VmckptError('FORMAT_UNSUPPORTED', `expected a plain QEMU stream, but ${what}`, { hint });
}

function latin1(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}
