/** Machines imported from bytes, and what a generation holds of one. */
import { createHash } from 'node:crypto';
import path from 'node:path';
import { Readable } from 'node:stream';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { importMachine, type ImportOptions, type ImportReport } from '../../../src/interchange/import.js';
import { exportMachine, type ExportOptions, type ExportReport } from '../../../src/interchange/export.js';
import { type ParsedStream, StreamParser } from '../../../src/migration-stream/parser.js';
import { PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';

const quiet = { onProgress: () => undefined, signal: new AbortController().signal };

export function importPieces(
  pieces: readonly Uint8Array[],
  options: Pick<ImportOptions, 'storeDir'> & Partial<ImportOptions>,
): Promise<ImportReport> {
  return importMachine({
    name: 'vm',
    input: Readable.from(pieces),
    inputName: 'vm.stream',
    level: 1,
    commandLine: [],
    onMessage: () => undefined,
    ...quiet,
    ...options,
  });
}

export function exportTo(
  file: string,
  options: Pick<ExportOptions, 'storeDir'> & Partial<ExportOptions>,
): Promise<ExportReport> {
  return exportMachine({ reference: 'vm', target: { file, overwrite: false }, ...quiet, ...options });
}

/** All that a stream says, or a generation holds, of a machine; missing pages as zeros. */
export interface Machine {
  readonly blocks: readonly { readonly name: string; readonly usedBytes: number }[];
  /** A digest of each page. */
  readonly pages: readonly string[];
  readonly deviceState: Buffer;
  readonly configuration: Buffer;
  readonly description: string;
  readonly ramSectionId: number;
}

/** Of a generation, its RAM blocks one behind the other. */
export function memoryOf(reader: CheckpointReader): Buffer {
  const { layout } = reader;
  const memory = Buffer.alloc(layout.ramBytes);
  const extent = new Uint8Array(reader.extentPages * PAGE_BYTES);
  for (let page = 0; page < layout.pageCount; page++) {
    const at = page * PAGE_BYTES;
    if (reader.kindOf(page) === PAGE_KINDS.fill) memory.fill(reader.fillByteOf(page), at, at + PAGE_BYTES);
    if (reader.kindOf(page) !== PAGE_KINDS.data) continue;
    reader.readExtent(reader.extentOf(page), extent);
    const slot = reader.slotOf(page) * PAGE_BYTES;
    memory.set(extent.subarray(slot, slot + PAGE_BYTES), at);
  }
  return memory;
}

export async function readGeneration(storeDir: string, generation = 1, name = 'vm'): Promise<Machine> {
  const reader = await CheckpointReader.open(path.join(storeDir, name, String(generation)));
  try {
    const { layout } = reader;
    const memory = memoryOf(reader);
    const { configuration, description = '', ramSectionId } = reader.manifest.migration;
    return {
      blocks: blocksOf(layout),
      pages: digestsOf(memory),
      deviceState: await reader.deviceState(),
      configuration: Buffer.from(configuration, 'base64'),
      description,
      ramSectionId,
    };
  } finally {
    reader.close();
  }
}

/** Reads a stream without any checkpoint. @throws VmckptError */
export function readStream(stream: Uint8Array): Machine {
  let memory = Buffer.alloc(0);
  const parser = new StreamParser({
    onLayout: ({ ramBytes }) => {
      memory = Buffer.alloc(ramBytes);
      return {
        fill: (page, byte) => void memory.fill(byte, page * PAGE_BYTES, (page + 1) * PAGE_BYTES),
        data: (page, bytes, start) =>
          memory.set(bytes.subarray(start, start + PAGE_BYTES), page * PAGE_BYTES),
      };
    },
  });
  parser.push(stream);
  const { layout, deviceState, configuration, description, ramSectionId } = parser.end();
  return {
    blocks: blocksOf(layout),
    pages: digestsOf(memory),
    deviceState,
    configuration,
    description: description.toString('utf8'),
    ramSectionId,
  };
}

/** Quick to compare, and a difference names its page. */
export function digestsOf(memory: Buffer): string[] {
  return Array.from({ length: memory.length / PAGE_BYTES }, (_, page) =>
    createHash('sha1')
      .update(memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES))
      .digest('hex'),
  );
}

function blocksOf({ blocks }: ParsedStream['layout']): Machine['blocks'] {
  return blocks.map(({ name, usedBytes }) => ({ name, usedBytes }));
}
