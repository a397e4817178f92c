/**
 * The private mapping's two files: all of main memory as one sparse file, and a stream that holds the rest of the
 * machine. QEMU maps the first with MAP_PRIVATE: the guest's writes never reach it.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, createWriteStream, ftruncateSync, openSync, writeSync } from 'node:fs';
import path from 'node:path';
import { DecodePool } from '../checkpoint/decode-pool.js';
import { CheckpointReader } from '../checkpoint/reader.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { PAGE_BYTES, type PlacedRamBlock } from '../pages/layout.js';
import type { QemuVersion } from '../qemu/qmp.js';
import { readMachineState, sendWholeMachine } from '../transfer/whole-machine.js';

/** The RAM block of a machine whose memory is given by its size alone. */
const MAIN_MEMORY = 'pc.ram';
/** From this version on the file can be opened for reading only, so that no discarded page can punch a hole into it. */
const READONLY_SINCE = 9;

export interface MemoryFileOptions {
  readonly dir: string;
  readonly signal: AbortSignal;
}

/** Writes both from a generation; returns their names, memory first. */
export async function writeMemoryFile(generationDir: string, { dir, signal }: MemoryFileOptions) {
  const reader = await CheckpointReader.open(generationDir);
  const decoder = new DecodePool(reader);
  try {
    const memory = reader.layout.blocks.find(({ name }) => name === MAIN_MEMORY)!;
    const files = [path.join(dir, 'memory'), path.join(dir, 'devices')] as const;
    writeMemory(reader, memory, files[0]);
    const state = await readMachineState(reader);
    const out = createWriteStream(files[1]);
    await sendWholeMachine({ source: reader, decoder, out, state, filled: [memory], signal });
    execFileSync('sync', files);
    return files;
  } finally {
    await decoder.close();
    reader.close();
  }
}

/** The guest's command line with its memory in `file`. */
export function withMemoryFile(
  argv: readonly string[],
  {
    file,
    ramBytes,
    version,
  }: { readonly file: string; readonly ramBytes: number; readonly version: QemuVersion },
): string[] {
  const machine = argv.indexOf('-machine') + 1;
  const access = version.major >= READONLY_SINCE ? ',readonly=on,rom=off' : '';
  return [
    ...argv.map((word, at) => (at === machine ? `${word},memory-backend=${MAIN_MEMORY}` : word)),
    '-object',
    `memory-backend-file,id=${MAIN_MEMORY},size=${ramBytes},mem-path=${file},share=off${access}`,
  ];
}

function writeMemory(reader: CheckpointReader, block: PlacedRamBlock, file: string): void {
  const fd = openSync(file, 'wx');
  const decoded = { extent: -1, bytes: new Uint8Array(reader.extentPages * PAGE_BYTES) };
  const bytesOf = (page: number): Uint8Array => {
    if (reader.kindOf(page) === PAGE_KINDS.fill)
      return new Uint8Array(PAGE_BYTES).fill(reader.fillByteOf(page));
    const extent = reader.extentOf(page);
    if (extent !== decoded.extent) reader.readExtent(extent, decoded.bytes);
    decoded.extent = extent;
    const at = reader.slotOf(page) * PAGE_BYTES;
    return decoded.bytes.subarray(at, at + PAGE_BYTES);
  };
  try {
    ftruncateSync(fd, block.usedBytes);
    for (let at = 0; at < block.pageCount; at++) {
      const page = block.firstPage + at;
      const kind = reader.kindOf(page);
      if (kind === PAGE_KINDS.data || kind === PAGE_KINDS.fill)
        writeSync(fd, bytesOf(page), 0, PAGE_BYTES, at * PAGE_BYTES);
    }
  } finally {
    closeSync(fd);
  }
}
