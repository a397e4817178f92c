/**
 * The part between the stream's header and its first section: `07, be32 length, machine name` and optional
 * subsections. A subsection does not tell its length, so only known ones can be skipped. The bytes are kept verbatim:
 * a restore replays them.
 */
import { be32, latin1, malformed } from './bytes.js';
import { MAX_NAME_BYTES, SECTION } from './constants.js';

const MAX_MACHINE_NAME_BYTES = 255;
const MAX_SUBSECTIONS = 8;
const MAX_CAPABILITIES = 64;

/** Capabilities that change how RAM travels, so that the stream does not carry every page. */
const UNREADABLE_CAPABILITIES = ['x-ignore-shared', 'mapped-ram'];

/** The longest element: a subsection's `05, u8 length, name, be32 version`, followed by a uuid. */
export const MAX_CONFIGURATION_ELEMENT_BYTES = 2 + MAX_NAME_BYTES + 4 + 16;

export class ConfigurationReader {
  machineName = '';
  readonly #pieces: Buffer[] = [];
  #begun = false;
  #subsections = 0;
  #capabilitiesLeft = 0;

  /** Everything taken so far, verbatim. */
  get bytes(): Buffer {
    return Buffer.concat(this.#pieces);
  }

  /**
   * Takes the element that begins at `at`, `offset` in the stream. Returns its end; `at` when bytes are missing;
   * undefined when the configuration is over.
   */
  step(bytes: Uint8Array, at: number, offset: number): number | undefined {
    if (at === bytes.length) return at;
    const next = this.#element(bytes, at, offset);
    if (next !== undefined && next > at) this.#pieces.push(Buffer.from(bytes.subarray(at, next)));
    return next;
  }

  #element(bytes: Uint8Array, at: number, offset: number): number | undefined {
    if (this.#capabilitiesLeft > 0) return this.#capability(bytes, at, offset);
    if (!this.#begun) {
      if (bytes[at] !== SECTION.configuration) return undefined;
      return this.#machine(bytes, at, offset);
    }
    if (bytes[at] !== SECTION.subsection) return undefined;
    return this.#subsection(bytes, at, offset);
  }

  #machine(bytes: Uint8Array, at: number, offset: number): number {
    if (bytes.length - at < 5) return at;
    const nameBytes = be32(bytes, at + 1);
    if (nameBytes === 0 || nameBytes > MAX_MACHINE_NAME_BYTES)
      throw unexpected(offset + 1, `a machine name of 1–${MAX_MACHINE_NAME_BYTES} bytes`, `${nameBytes}`);
    if (bytes.length - at < 5 + nameBytes) return at;
    this.machineName = latin1(bytes, at + 5, nameBytes);
    this.#begun = true;
    return at + 5 + nameBytes;
  }

  #subsection(bytes: Uint8Array, at: number, offset: number): number {
    if (bytes.length - at < 2) return at;
    const nameBytes = bytes[at + 1]!;
    const fields = at + 2 + nameBytes + 4;
    if (bytes.length < fields) return at;
    const name = latin1(bytes, at + 2, nameBytes);
    const next = this.#fieldsEnd(name, fields, offset);
    if (bytes.length < next) return at;
    if (++this.#subsections > MAX_SUBSECTIONS)
      throw unexpected(offset, `at most ${MAX_SUBSECTIONS} configuration subsections`, 'one more');
    if (name === 'configuration/capabilities')
      this.#capabilitiesLeft = capabilityCount(bytes, fields, offset + fields - at);
    return next;
  }

  #fieldsEnd(name: string, fields: number, offset: number): number {
    switch (name) {
      case 'configuration/capabilities':
      case 'configuration/target-page-bits':
        return fields + 4;
      case 'configuration/uuid':
        return fields + 16;
      default:
        throw unexpected(offset, 'a configuration subsection that vmckpt knows', JSON.stringify(name));
    }
  }

  #capability(bytes: Uint8Array, at: number, offset: number): number {
    const next = at + 1 + bytes[at]!;
    if (bytes.length < next) return at;
    const name = latin1(bytes, at + 1, bytes[at]!);
    if (UNREADABLE_CAPABILITIES.includes(name))
      throw malformed({
        where: 'migration stream',
        offset,
        expected: 'a stream that carries every page itself',
        actual: `one made with the capability ${name}`,
        hint: `Switch the migration capability ${name} off in the saving QEMU.`,
      });
    this.#capabilitiesLeft--;
    return next;
  }
}

function capabilityCount(bytes: Uint8Array, at: number, offset: number): number {
  const count = be32(bytes, at);
  if (count > MAX_CAPABILITIES)
    throw unexpected(offset, `at most ${MAX_CAPABILITIES} capabilities`, `${count}`);
  return count;
}

function unexpected(offset: number, expected: string, actual: string): Error {
  return malformed({ where: 'migration stream', offset, expected, actual });
}
