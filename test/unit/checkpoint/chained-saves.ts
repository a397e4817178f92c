/** Saves one generation behind the other, of memory whose contents are told by versions. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect } from 'vitest';
import type { Level } from '../../../src/checkpoint/extent-codec.js';
import { packParts } from '../../../src/checkpoint/format.js';
import { encodeManifest, readManifest, type Format2Manifest } from '../../../src/checkpoint/manifest.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import type { VmckptError } from '../../../src/errors.js';
import { PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { format2Manifest, ownPack } from '../../support/packs.js';
import { manifestParts, syntheticPage } from './synthetic.js';

export const layout = new RamLayout([
  { name: 'pc.ram', usedBytes: 4500 * PAGE_BYTES },
  { name: 'vga.vram', usedBytes: 100 * PAGE_BYTES },
]);
export const deviceState = Buffer.from('device state');

/** A version of data; `f` and a byte; or absent. */
export type Content = number | `f${number}` | undefined;
export type Memory = readonly Content[];
export type Put = readonly [page: number, content: Content];

function put(writer: CheckpointWriter, page: number, content: Content): void {
  if (typeof content === 'number') writer.data(page, syntheticPage(page, content), 0);
  else if (content !== undefined) writer.fill(page, Number(content.slice(1)));
}

export interface Save {
  readonly nameDir: string;
  readonly number: number;
  readonly memory: Memory;
  /** Put before the memory itself: older versions of pages. */
  readonly before?: readonly Put[];
  readonly level?: Level;
  readonly full?: boolean;
  readonly dir?: string;
  /** All pages but these are what they are in the generation before. */
  readonly puts?: readonly Put[];
  readonly onDamage?: (error: VmckptError) => void;
}

export async function save({
  nameDir,
  number,
  memory,
  before = [],
  level = 1,
  full,
  dir,
  puts,
  onDamage = () => undefined,
}: Save): Promise<Format2Manifest> {
  const former = path.join(nameDir, String(number - 1));
  const formerDir = full !== true && existsSync(former) ? former : undefined;
  const into = dir ?? path.join(nameDir, String(number));
  mkdirSync(into);
  const inherited = puts && readManifest(former).id;
  const writer = CheckpointWriter.create(into, { layout, level, chain: { formerDir, inherited, onDamage } });
  expect(writer.inherits).toBe(puts !== undefined);
  for (const [page, content] of before) {
    put(writer, page, content);
    await writer.ready();
  }
  for (const [index, [page, content]] of [...(puts ?? memory.entries())].entries()) {
    put(writer, page, content);
    if (index % 64 === 0) await writer.ready();
  }
  return writer.finish(manifestParts(), deviceState);
}

export async function expectMemory(dir: string, memory: Memory): Promise<void> {
  const reader = await CheckpointReader.open(dir);
  const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
  for (const [page, content] of memory.entries()) {
    const kind = reader.kindOf(page);
    if (typeof content !== 'number') {
      expect([kind === PAGE_KINDS.absent, kind === PAGE_KINDS.data]).toEqual([content === undefined, false]);
      if (content !== undefined) expect(reader.fillByteOf(page)).toBe(Number(content.slice(1)));
      continue;
    }
    expect(kind).toBe(PAGE_KINDS.data);
    reader.readExtent(reader.extentOf(page), into);
    const start = reader.slotOf(page) * PAGE_BYTES;
    if (Buffer.compare(into.subarray(start, start + PAGE_BYTES), syntheticPage(page, content)) !== 0)
      throw new Error(`page ${page} of ${dir} is wrong`);
  }
  reader.close();
}

export const full: Memory = Array.from({ length: layout.pageCount }, (_, page): Content =>
  page % 7 === 0 ? 'f0' : page % 13 === 0 ? `f${page % 256}` : 0,
);

export function changed(memory: Memory, pages: readonly number[], version: number): Memory {
  const copy = [...memory];
  for (const page of pages) copy[page] = version;
  return copy;
}

/** Damages hashes of a generation's own pack, or their table. */
export function flipHash(dir: string, part: 'hashesOffset' | 'hashTableOffset'): void {
  flip(ownPack(dir), packParts(format2Manifest(dir).packs.at(-1)!)[part]);
}

/** As an earlier vmckpt would have written it. */
export function forgetHashes(dir: string): void {
  const { packs: found, ...manifest } = format2Manifest(dir);
  const without = found.map((pack) => ({ ...pack, pageHashes: undefined, usedPageCount: undefined }));
  writeFileSync(path.join(dir, 'manifest.json'), encodeManifest({ ...manifest, packs: without }));
}

/** @param at from the end, if negative */
export function flip(file: string, at: number): void {
  const bytes = readFileSync(file);
  bytes[at < 0 ? bytes.length + at : at]! ^= 1;
  writeFileSync(file, bytes);
}
