/**
 * Push parser of a saved VM's migration stream: header, configuration, one "ram" section in parts, device
 * state. Pages go to the sink in place when they are whole in the chunk. No I/O and no allocation per page.
 * Invariant: what is not understood is an error that names offset and value; nothing is guessed or skipped.
 * Source of the wire facts: constants.ts.
 */
import { VmckptError } from '../errors.js';
import type { PageSink } from '../pages/contracts.js';
import { PAGE_BYTES, type PlacedRamBlock, RamLayout } from '../pages/layout.js';
import { be16, be32, be64, hex, latin1, malformed } from './bytes.js';
import { ConfigurationReader, MAX_CONFIGURATION_ELEMENT_BYTES } from './configuration.js';
import {
  COMMAND,
  MAX_RECORD_BYTES,
  RAM_FLAG,
  RAM_FLAG_CAPABILITIES,
  RAM_SECTION_NAME,
  RAM_SECTION_VERSION,
  RECORD_HEADER_BYTES,
  SECTION,
  STREAM_MAGIC,
  STREAM_VERSION,
} from './constants.js';
import { MAX_DEVICE_STATE_BYTES, splitSavedDevices, TailCollector } from './device-state.js';
import { DIRTY_BITMAP_SECTION_NAME, stepOverDirtyBitmap } from './dirty-bitmap.js';
import { ElementReader } from './element-reader.js';

export type PageTarget = Pick<PageSink, 'fill' | 'data'>;

export interface StreamHandler {
  /** Called once, when the MEM_SIZE list has been read; returns where pages go. */
  onLayout(layout: RamLayout): PageTarget;
}

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
type State =
  | 'header'
  | 'configuration'
  | 'section'
  | 'block list'
  | 'RAM records'
  | 'dirty bitmaps'
  | 'footer'
  | 'device state';

const MAX_ELEMENT_BYTES = Math.max(MAX_RECORD_BYTES, MAX_CONFIGURATION_ELEMENT_BYTES);
const MAX_RAM_BLOCKS = 4096;
const FLAG_MASK = PAGE_BYTES - 1;
/** Pages that the upper 32 bits of a record's offset count. */
const PAGES_PER_HIGH_UNIT = 2 ** 32 / PAGE_BYTES;
const FOOTER_BYTES = 5;
const COMMAND_BYTES = 5;

export class StreamParser {
  readonly #handler: StreamHandler;
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
  /** Pages before the PART of ram that is being read. */
  #pagesBeforePart = 0;
  #memoryIsWhole = false;
  /** Type of the ram section that was opened last; a FULL may follow PART or END. */
  #ramPhase: number | undefined;
  #announcedBytes = 0;
  readonly #announced: { name: string; usedBytes: number }[] = [];
  #layout: RamLayout | undefined;
  #sink: PageTarget | undefined;
  #block: PlacedRamBlock | undefined;
  #dataPageCount = 0;
  #fillPageCount = 0;

  constructor(
    handler: StreamHandler,
    { maxDeviceStateBytes = MAX_DEVICE_STATE_BYTES, held = false }: StreamOptions = {},
  ) {
    this.#handler = handler;
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
    if (this.#state !== 'device state' || this.#layout === undefined || this.#ramSectionId === undefined)
      throw this.truncated();
    return { ...this.#memory(this.#layout, this.#ramSectionId), ...this.#tail.split() };
  }

  /**
   * The memory of a held stream, and the devices as QEMU's xen-save-devices-state has written them.
   * @throws VmckptError STREAM_TRUNCATED when either is not whole.
   */
  endHeld(savedDevices: Buffer): ParsedStream {
    if (!this.#memoryIsWhole || this.#layout === undefined || this.#ramSectionId === undefined)
      throw this.truncated();
    return { ...this.#memory(this.#layout, this.#ramSectionId), ...splitSavedDevices(savedDevices) };
  }

  truncated(): VmckptError {
    return new VmckptError(
      'STREAM_TRUNCATED',
      `a whole migration stream expected, but it ends after ${this.bytesSeen} bytes within: ${this.#state}`,
    );
  }

  #memory(layout: RamLayout, ramSectionId: number) {
    return {
      configuration: this.#configuration.bytes,
      machineName: this.#configuration.machineName,
      ramSectionId,
      layout,
      dataPageCount: this.#dataPageCount,
      fillPageCount: this.#fillPageCount,
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
      case 'block list':
        return this.#blockListEntry(bytes, at);
      case 'RAM records':
        return this.#ramRecords(bytes, at);
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
    this.#ramPhase = SECTION.start;
    this.#state = 'RAM records';
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
    this.#ramPhase = bytes[at]!;
    this.#pagesBeforePart = this.#pageCount;
    this.#state = 'RAM records';
    return at + 5;
  }

  get #pageCount(): number {
    return this.#dataPageCount + this.#fillPageCount;
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
    if (this.#layout === undefined)
      this.#fail(at, 'the list of RAM blocks in the first section "ram"', 'none');
    this.#state = 'section';
    return at + FOOTER_BYTES;
  }

  /** The hot path: page records, one after another, until one is not whole or is no page. */
  #ramRecords(bytes: Uint8Array, from: number): number {
    const end = bytes.length;
    const sink = this.#sink;
    let at = from;
    while (end - at >= RECORD_HEADER_BYTES) {
      const low = be32(bytes, at + 4);
      const kind = low & FLAG_MASK & ~RAM_FLAG.continue;
      if (kind !== RAM_FLAG.page && kind !== RAM_FLAG.zero) return this.#ramControl(bytes, at);
      if (sink === undefined) this.#fail(at, 'the list of RAM blocks', 'a page');

      let body = at + RECORD_HEADER_BYTES;
      if ((low & RAM_FLAG.continue) === 0) {
        if (body === end) return at;
        body += 1 + bytes[body]!;
        if (body > end) return at;
        this.#block = this.#namedBlock(bytes, at + RECORD_HEADER_BYTES);
      }
      const block = this.#block;
      if (block === undefined) this.#fail(at, 'a RAM block name', '"same block" without one before it');
      const next = body + (kind === RAM_FLAG.page ? PAGE_BYTES : 1);
      if (next > end) return at;

      const pageInBlock = be32(bytes, at) * PAGES_PER_HIGH_UNIT + (low >>> 12);
      if (pageInBlock >= block.pageCount)
        this.#fail(
          at,
          `an offset below ${block.usedBytes} in RAM block "${block.name}"`,
          `${pageInBlock * PAGE_BYTES}`,
        );
      if (kind === RAM_FLAG.page) {
        sink.data(block.firstPage + pageInBlock, bytes, body);
        this.#dataPageCount++;
      } else {
        sink.fill(block.firstPage + pageInBlock, bytes[body]!);
        this.#fillPageCount++;
      }
      at = next;
    }
    return at;
  }

  #namedBlock(bytes: Uint8Array, at: number): PlacedRamBlock {
    const name = latin1(bytes, at + 1, bytes[at]!);
    const block = this.#layout?.byName(name);
    if (block === undefined) this.#fail(at, 'a RAM block of the list', JSON.stringify(name));
    return block;
  }

  /** A RAM record that is no page; its eight bytes are there. */
  #ramControl(bytes: Uint8Array, at: number): number {
    const flags = be32(bytes, at + 4) & FLAG_MASK;
    switch (flags) {
      case RAM_FLAG.endOfSection:
        // QEMU opens a PART without pages only when it has none left.
        this.#memoryIsWhole =
          this.#held && this.#ramPhase === SECTION.part && this.#pageCount === this.#pagesBeforePart;
        this.#state = 'footer';
        break;
      case RAM_FLAG.multifdFlush:
        break;
      case RAM_FLAG.memSize:
        if (this.#layout !== undefined) this.#fail(at, 'one list of RAM blocks', 'another one');
        this.#announcedBytes = be64(bytes, at) - flags;
        this.#state = 'block list';
        break;
      default:
        this.#refuseRecord(at, flags);
    }
    return at + RECORD_HEADER_BYTES;
  }

  #refuseRecord(at: number, flags: number): never {
    const known = RAM_FLAG_CAPABILITIES.find(({ flag }) => (flags & flag) !== 0);
    this.#fail(at, 'a page-aligned offset and known flags of a RAM record', `the low bits ${hex(flags)}`, {
      hint: known && `Switch the migration capability ${known.capability} off in the saving QEMU.`,
    });
  }

  #blockListEntry(bytes: Uint8Array, at: number): number {
    if (this.#announcedBytes === 0) {
      this.#layout = new RamLayout(this.#announced);
      this.#sink = this.#handler.onLayout(this.#layout);
      this.#state = 'RAM records';
      return at;
    }
    if (at === bytes.length) return at;
    const usedAt = at + 1 + bytes[at]!;
    if (bytes.length < usedAt + 8) return at;
    if (this.#announced.length === MAX_RAM_BLOCKS)
      this.#fail(at, `at most ${MAX_RAM_BLOCKS} RAM blocks`, 'one more');
    const usedBytes = be64(bytes, usedAt);
    if (usedBytes > this.#announcedBytes || usedBytes % PAGE_BYTES !== 0)
      this.#fail(usedAt, `whole pages, at most ${this.#announcedBytes} bytes more of RAM`, `${usedBytes}`);
    const name = latin1(bytes, at + 1, bytes[at]!);
    if (name.includes('\0')) this.#fail(at, 'a RAM block name without NUL', JSON.stringify(name));
    this.#announced.push({ name, usedBytes });
    this.#announcedBytes -= usedBytes;
    return usedAt + 8;
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
