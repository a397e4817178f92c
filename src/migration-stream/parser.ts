/**
 * Push parser of a saved VM's migration stream: header, configuration, one "ram" section in parts (ram-section.ts),
 * device state. No I/O.
 * Invariant: what is not understood is an error that names offset and value; nothing is guessed or skipped.
 * Source of the wire facts: constants.ts.
 */
import { VmckptError } from '../errors.js';
import type { RamLayout } from '../pages/layout.js';
import { be16, be32, hex, latin1, malformed } from './bytes.js';
import { ConfigurationReader, MAX_CONFIGURATION_ELEMENT_BYTES } from './configuration.js';
import {
  COMMAND,
  MAX_RECORD_BYTES,
  RAM_SECTION_NAME,
  RAM_SECTION_VERSION,
  SECTION,
  STREAM_MAGIC,
  STREAM_VERSION,
} from './constants.js';
import { MAX_DEVICE_STATE_BYTES, splitSavedDevices, TailCollector } from './device-state.js';
import { DIRTY_BITMAP_SECTION_NAME, stepOverDirtyBitmap } from './dirty-bitmap.js';
import { ElementReader } from './element-reader.js';
import { RamSection, type RamHandler } from './ram-section.js';

export interface StreamOptions {
  readonly maxDeviceStateBytes?: number;
  /** The stream has no end: a dirty bitmap keeps it going when all memory is in. */
  readonly held?: boolean;
}

export interface ParsedStream {
  /**
   * The bytes between the 8-byte header and the first section, verbatim: the configuration section with its
   * type byte and subsections. May be empty, and the machine name with it.
   */
  readonly configuration: Buffer;
  readonly machineName: string;
  readonly ramSectionId: number;
  /** FULL sections of devices, opaque, without the closing 00 and without the description. */
  readonly deviceState: Buffer;
  /** The JSON description of the device state (payload of section type 06), empty if none. */
  readonly description: Buffer;
  readonly layout: RamLayout;
  /** Page records with data, and with one repeated byte; a page sent twice counts twice. */
  readonly dataPageCount: number;
  readonly fillPageCount: number;
  readonly byteCount: number;
}

/** Named for the message of a stream that ends in the middle of one. */
type State = 'header' | 'configuration' | 'section' | 'ram' | 'dirty bitmaps' | 'footer' | 'device state';

const MAX_ELEMENT_BYTES = Math.max(MAX_RECORD_BYTES, MAX_CONFIGURATION_ELEMENT_BYTES);
const FOOTER_BYTES = 5;
const COMMAND_BYTES = 5;

export class StreamParser {
  readonly #ram: RamSection;
  readonly #reader = new ElementReader(MAX_ELEMENT_BYTES, (bytes, offset) => this.#consume(bytes, offset));
  readonly #configuration = new ConfigurationReader();
  readonly #tail: TailCollector;
  readonly #held: boolean;
  #state: State = 'header';
  #failure: Error | undefined;
  /** Stream offset of the first byte of what is being consumed. */
  #base = 0;

  #ramSectionId: number | undefined;
  #bitmapSectionId: number | undefined;
  /** Of the section that is being read. */
  #openSectionId: number | undefined;
  #memoryIsWhole = false;
  /** Type of the ram section that was opened last; a FULL may follow PART or END. */
  #ramPhase: number | undefined;

  constructor(
    handler: RamHandler,
    { maxDeviceStateBytes = MAX_DEVICE_STATE_BYTES, held = false }: StreamOptions = {},
  ) {
    this.#ram = new RamSection(handler);
    this.#held = held;
    this.#tail = new TailCollector(maxDeviceStateBytes);
  }

  get bytesSeen(): number {
    return this.#reader.bytesSeen;
  }

  /** Of a held stream: QEMU has nothing left to send of a stopped machine's memory. */
  get memoryIsWhole(): boolean {
    return this.#memoryIsWhole;
  }

  /**
   * Takes the next bytes of the stream; they are borrowed for the call.
   * @throws VmckptError STREAM_MALFORMED, and whatever the handler throws; after that the same again and again.
   */
  push(chunk: Uint8Array): void {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      this.#reader.push(chunk);
    } catch (error) {
      this.#failure = error as Error;
      throw error;
    }
  }

  /**
   * The stream is over.
   * @throws VmckptError STREAM_TRUNCATED when it is not whole.
   */
  end(): ParsedStream {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#state !== 'device state') throw this.truncated();
    return { ...this.#memory(), ...this.#tail.split() };
  }

  /**
   * The memory of a held stream, and the devices as QEMU's xen-save-devices-state has written them.
   * @throws VmckptError STREAM_TRUNCATED when either is not whole.
   */
  endHeld(savedDevices: Buffer): ParsedStream {
    if (!this.#memoryIsWhole) throw this.truncated();
    return { ...this.#memory(), ...splitSavedDevices(savedDevices) };
  }

  truncated(): VmckptError {
    const within = this.#state === 'ram' ? this.#ram.within : this.#state;
    return new VmckptError(
      'STREAM_TRUNCATED',
      `the migration stream is cut off after ${this.bytesSeen} bytes, within: ${within}`,
    );
  }

  #memory() {
    const { layout, dataPageCount, fillPageCount } = this.#ram;
    if (layout === undefined || this.#ramSectionId === undefined) throw this.truncated();
    return {
      configuration: this.#configuration.bytes,
      machineName: this.#configuration.machineName,
      ramSectionId: this.#ramSectionId,
      layout,
      dataPageCount,
      fillPageCount,
      byteCount: this.bytesSeen,
    };
  }

  /** Takes whole elements until the rest is less than one. */
  #consume(bytes: Uint8Array, offset: number): number {
    this.#base = offset;
    let at = 0;
    for (;;) {
      const state = this.#state;
      const next = this.#step(bytes, at);
      if (next === at && state === this.#state) return at;
      at = next;
    }
  }

  /** Takes one element or several; returns `at` when the first of them is not whole. */
  #step(bytes: Uint8Array, at: number): number {
    switch (this.#state) {
      case 'header':
        return this.#header(bytes, at);
      case 'configuration':
        return this.#configurationElement(bytes, at);
      case 'section':
        return this.#section(bytes, at);
      case 'ram':
        return this.#ramContent(bytes, at);
      case 'dirty bitmaps':
        return this.#dirtyBitmaps(bytes, at);
      case 'footer':
        return this.#footer(bytes, at);
      case 'device state':
        this.#tail.add(at === 0 ? bytes : bytes.subarray(at), this.#base + at);
        return bytes.length;
    }
  }

  #header(bytes: Uint8Array, at: number): number {
    if (bytes.length - at < 8) return at;
    const magic = be32(bytes, at);
    if (magic !== STREAM_MAGIC) this.#fail(at, `the magic ${hex(STREAM_MAGIC)} of a QEMU stream`, hex(magic));
    const version = be32(bytes, at + 4);
    if (version !== STREAM_VERSION) this.#fail(at + 4, `stream version ${STREAM_VERSION}`, `${version}`);
    this.#state = 'configuration';
    return at + 8;
  }

  #configurationElement(bytes: Uint8Array, at: number): number {
    const next = this.#configuration.step(bytes, at, this.#base + at);
    if (next !== undefined) return next;
    this.#state = 'section';
    return at;
  }

  #section(bytes: Uint8Array, at: number): number {
    if (at === bytes.length) return at;
    const type = bytes[at]!;
    switch (type) {
      case SECTION.start:
        return this.#started(bytes, at);
      case SECTION.part:
      case SECTION.end:
        return this.#continued(bytes, at);
      case SECTION.command:
        return this.#command(bytes, at);
      case SECTION.full:
        return this.#firstDevice(bytes, at);
      case SECTION.endOfStream:
        if (this.#ramPhase !== SECTION.end)
          this.#fail(at, 'the end of the ram section', 'the end of the stream');
        this.#state = 'device state';
        return at;
      default:
        this.#fail(at, 'a section type 00–04 or a command 08', hex(type));
    }
  }

  #started(bytes: Uint8Array, at: number): number {
    const name = sectionName(bytes, at);
    if (name === undefined) return at;
    const versionAt = at + 6 + name.length + 4;
    if (bytes.length < versionAt + 4) return at;
    this.#openSectionId = be32(bytes, at + 1);
    if (this.#held && name === DIRTY_BITMAP_SECTION_NAME) {
      this.#bitmapSectionId = this.#openSectionId;
      this.#state = 'dirty bitmaps';
      return versionAt + 4;
    }
    if (name !== RAM_SECTION_NAME || this.#ramSectionId !== undefined)
      this.#fail(at, 'one section in parts, "ram"', `the start of section ${JSON.stringify(name)}`, {
        hint: `Switch off the migration capability that adds the section, or remove its device (${name}).`,
      });
    const version = be32(bytes, versionAt);
    if (version !== RAM_SECTION_VERSION)
      this.#fail(versionAt, `version ${RAM_SECTION_VERSION} of section "ram"`, `${version}`);
    this.#ramSectionId = this.#openSectionId;
    this.#beginRam(SECTION.start);
    return versionAt + 4;
  }

  #continued(bytes: Uint8Array, at: number): number {
    if (bytes.length - at < 5) return at;
    const id = be32(bytes, at + 1);
    this.#openSectionId = id;
    if (id === this.#bitmapSectionId) {
      this.#state = 'dirty bitmaps';
      return at + 5;
    }
    if (id !== this.#ramSectionId)
      this.#fail(at + 1, `the id ${this.#ramSectionId ?? '(none yet)'} of section "ram"`, `${id}`);
    if (this.#ramPhase === SECTION.end)
      this.#fail(at, 'device state after the end of "ram"', 'more of "ram"');
    this.#beginRam(bytes[at]!);
    return at + 5;
  }

  #beginRam(phase: number): void {
    this.#ramPhase = phase;
    this.#ram.begin();
    this.#state = 'ram';
  }

  #ramContent(bytes: Uint8Array, at: number): number {
    const next = this.#ram.step(bytes, at, this.#base);
    if (this.#ram.hasEnded) {
      // QEMU opens a PART without pages only when it has none left.
      this.#memoryIsWhole = this.#held && this.#ramPhase === SECTION.part && this.#ram.wasEmpty;
      this.#state = 'footer';
    }
    return next;
  }

  #dirtyBitmaps(bytes: Uint8Array, at: number): number {
    const step = stepOverDirtyBitmap(bytes, at, this.#base + at);
    if (step === undefined) return at;
    if (step.ended) this.#state = 'footer';
    return step.next;
  }

  #command(bytes: Uint8Array, at: number): number {
    if (bytes.length - at < COMMAND_BYTES) return at;
    const command = be16(bytes, at + 1);
    const payloadBytes = be16(bytes, at + 3);
    // What announces that dirty bitmaps may follow the machine.
    const ofBitmaps = this.#held && command === COMMAND.postcopyAdvise;
    if ((command !== COMMAND.switchoverStart && !ofBitmaps) || payloadBytes !== 0)
      this.#fail(at, 'no command but SWITCHOVER_START', `command ${command} with ${payloadBytes} bytes`, {
        hint: 'Switch the migration capabilities postcopy-ram and return-path off in the saving QEMU.',
      });
    return at + COMMAND_BYTES;
  }

  /** A background snapshot has no END of "ram": there the first FULL section after a PART ends it. */
  #firstDevice(bytes: Uint8Array, at: number): number {
    const name = sectionName(bytes, at);
    if (name === undefined) return at;
    if (this.#ramPhase !== SECTION.part && this.#ramPhase !== SECTION.end)
      this.#fail(at, 'section "ram" before any device', `device section ${JSON.stringify(name)}`, {
        hint: `Remove the device (${name}): its state travels ahead of memory, which vmckpt does not support.`,
      });
    this.#state = 'device state';
    return at;
  }

  #footer(bytes: Uint8Array, at: number): number {
    if (bytes.length - at < FOOTER_BYTES) return at;
    if (bytes[at] !== SECTION.footer)
      this.#fail(at, 'a section footer 0x7e', hex(bytes[at]!), {
        hint: 'Machine types without section footers (2.3 and older) are not supported.',
      });
    const id = be32(bytes, at + 1);
    if (id !== this.#openSectionId)
      this.#fail(at + 1, `a footer of section ${this.#openSectionId}`, `of ${id}`);
    if (this.#ram.layout === undefined)
      this.#fail(at, 'the list of RAM blocks in the first section "ram"', 'none');
    this.#state = 'section';
    return at + FOOTER_BYTES;
  }

  #fail(at: number, expected: string, actual: string, { hint }: { hint?: string | undefined } = {}): never {
    throw malformed({ where: 'migration stream', offset: this.#base + at, expected, actual, hint });
  }
}

/** The name in `type, be32 id, u8 length, name`, undefined when it is not whole. */
function sectionName(bytes: Uint8Array, at: number): string | undefined {
  const nameAt = at + 6;
  if (bytes.length < nameAt || bytes.length < nameAt + bytes[nameAt - 1]!) return undefined;
  return latin1(bytes, nameAt, bytes[nameAt - 1]!);
}
