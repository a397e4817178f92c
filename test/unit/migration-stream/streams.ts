/** Streams for tests, built with the serializer, and a handler that keeps what it was given. */
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { type ParsedStream, StreamParser } from '../../../src/migration-stream/parser.js';
import * as wire from '../../../src/migration-stream/serializer.js';

const RAM_SECTION_ID = 2;
export const CONFIGURATION = Buffer.from(`07${be32(10)}${ascii('pc-q35-7.2')}`, 'hex');
export const DESCRIPTION = Buffer.from('{"devices": [{"name": "timer"}]}');
/** Two FULL sections as a device would write them: name, instance, version, data, footer. */
export const DEVICE_STATE = Buffer.concat([
  fullSection(0, 'timer', Buffer.from([1, 2, 3])),
  fullSection(3, 'cpu_common', Buffer.from('00060000', 'hex')),
]);

export function be32(value: number): string {
  return value.toString(16).padStart(8, '0');
}

export function be64(value: number): string {
  return value.toString(16).padStart(16, '0');
}

export function ascii(text: string): string {
  return Buffer.from(text, 'latin1').toString('hex');
}

/** A name behind its length byte. */
export function counted(text: string): string {
  return Buffer.of(text.length).toString('hex') + ascii(text);
}

export function bytes(...parts: readonly (string | Uint8Array)[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'hex') : part)));
}

export function fullSection(id: number, name: string, data: Uint8Array): Buffer {
  return bytes('04', be32(id), counted(name), be32(0), be32(1), data, '7e', be32(id));
}

export interface Stored {
  readonly page: number;
  /** A repeated byte, or a page's bytes in hex. */
  readonly content: number | string;
}

/** Pushes the pieces and returns the result with every page in the order of arrival. */
export function parse(pieces: readonly Uint8Array[]): ParsedStream & { pages: Stored[] } {
  const pages: Stored[] = [];
  const parser = new StreamParser({ onLayout: () => collectInto(pages) });
  for (const piece of pieces) parser.push(piece);
  return { ...parser.end(), pages };
}

function collectInto(pages: Stored[]) {
  return {
    fill: (page: number, byte: number) => void pages.push({ page, content: byte }),
    data: (page: number, source: Uint8Array, start: number) =>
      void pages.push({
        page,
        content: Buffer.from(source.subarray(start, start + PAGE_BYTES)).toString('hex'),
      }),
  };
}

export function patternPage(seed: number): Buffer {
  return Buffer.from(
    Uint8Array.from({ length: PAGE_BYTES }, (_, i) => (i * 7 + seed * 13 + (i >> 8)) & 0xff),
  );
}

export interface PageOp {
  readonly page: number;
  /** A repeated byte, or a seed of patternPage(). */
  readonly fill?: number;
  readonly seed?: number;
}

export interface StreamParts {
  readonly layout: RamLayout;
  /** The pages of each PART. */
  readonly parts: readonly (readonly PageOp[])[];
  readonly background?: boolean;
  readonly deviceState?: Uint8Array;
  readonly description?: Uint8Array;
}

/** A whole stream as QEMU saves it; `background`: without the END of "ram". */
export function buildStream(stream: StreamParts): Buffer {
  const { layout, parts, background = false, deviceState = DEVICE_STATE, description = DESCRIPTION } = stream;
  const writer = new wire.RecordWriter(layout, 64 * 1024);
  writer.raw(wire.streamHeader(CONFIGURATION));
  writer.raw(wire.ramStart(RAM_SECTION_ID, layout));
  for (const part of parts) {
    writer.raw(wire.ramPartOpen(RAM_SECTION_ID));
    for (const op of part) writeOp(writer, op);
    writer.raw(wire.ramClose(RAM_SECTION_ID));
  }
  if (!background)
    writer.raw(Buffer.concat([wire.ramEndOpen(RAM_SECTION_ID), wire.ramClose(RAM_SECTION_ID)]));
  writer.raw(deviceState);
  writer.raw(wire.END_OF_STREAM);
  if (description.length > 0) writer.raw(wire.vmDescription(description));
  return Buffer.from(writer.take());
}

function writeOp(writer: wire.RecordWriter, { page, fill, seed = 0 }: PageOp): void {
  if (fill === undefined) writer.page(page, patternPage(seed), 0);
  else writer.fill(page, fill);
}

/** What the parser reports for an op: a repeated byte other than 0 travels as a full page. */
export function storedOf({ page, fill, seed = 0 }: PageOp): Stored {
  if (fill === 0) return { page, content: 0 };
  const content = fill === undefined ? patternPage(seed) : Buffer.alloc(PAGE_BYTES, fill);
  return { page, content: content.toString('hex') };
}

export const SMALL_LAYOUT = new RamLayout([
  { name: 'pc.ram', usedBytes: 8 * PAGE_BYTES },
  { name: '/rom@etc/acpi/tables', usedBytes: 2 * PAGE_BYTES },
  { name: 'pc.bios', usedBytes: PAGE_BYTES },
]);

export const SMALL_STREAM: StreamParts = {
  layout: SMALL_LAYOUT,
  parts: [
    [
      { page: 0, seed: 1 },
      { page: 1, fill: 0 },
      { page: 8, seed: 2 },
    ],
    [],
    [
      { page: 10, fill: 0 },
      { page: 7, fill: 0 },
      { page: 0, seed: 3 },
    ],
  ],
};
