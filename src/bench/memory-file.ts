/**
 * The private mapping's two files: all of main memory as one sparse file, and a stream that holds the rest of the
 * machine. QEMU maps the first with MAP_PRIVATE: the guest's writes never reach it.
 */
import { execFileSync } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { rename } from 'node:fs/promises';
import path from 'node:path';
import { FileExtents } from '../checkpoint/file-extents.js';
import { CheckpointReader } from '../checkpoint/reader.js';
import { writeRawMemory } from '../transfer/raw-memory.js';
import { readMachineState, sendWholeMachine } from '../transfer/whole-machine.js';

export interface MemoryFileOptions {
  readonly dir: string;
  readonly signal: AbortSignal;
}

/** Writes both from a generation; returns their names, memory first. */
export async function writeMemoryFile(generationDir: string, { dir, signal }: MemoryFileOptions) {
  const raw = await writeRawMemory(generationDir, { signal });
  const reader = await CheckpointReader.open(generationDir);
  const extents = new FileExtents(reader);
  try {
    const files = [path.join(dir, 'memory'), path.join(dir, 'devices')] as const;
    await rename(raw.file, files[0]);
    const filled = [reader.layout.byName(raw.block)!];
    const state = await readMachineState(reader);
    const out = createWriteStream(files[1]);
    await sendWholeMachine({ catalog: reader, extents, out, state, filled, signal });
    execFileSync('sync', files);
    return files;
  } finally {
    await extents.close();
    reader.close();
  }
}
