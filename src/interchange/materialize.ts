/**
 * The story of `vmckpt materialize`: a generation gets its raw memory file, which `restore --mode map` maps. The file
 * appears as a whole or not at all, and every extent is verified on the way.
 */
import { requireMachine, type Manifest } from '../checkpoint/manifest.js';
import { findRawMemory, type RawMemory } from '../checkpoint/raw-memory.js';
import { VmckptError } from '../errors.js';
import { Store } from '../store/store.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { writeRawMemory } from '../transfer/raw-memory.js';

export interface MaterializeOptions {
  readonly storeDir: string;
  /** NAME or NAME@GENERATION. */
  readonly reference: string;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

export interface MaterializeReport {
  readonly name: string;
  readonly generation: number;
  readonly file: string;
  /** False: it existed already. */
  readonly made: boolean;
  readonly sizeBytes: number;
  /** Space on the disk. */
  readonly storedBytes: number;
  readonly totalMs: number;
}

/**
 * @throws VmckptError NO_STORE, NO_CHECKPOINT, MEMORY_ONLY, MAP_REFUSED, STORE_LOCKED while another process does the same,
 *   EXTENT_DAMAGED, INDEX_DAMAGED, NO_SPACE, STORE_NOT_WRITABLE, INTERRUPTED
 */
export async function materialize(options: MaterializeOptions): Promise<MaterializeReport> {
  const startMs = nowMs();
  const store = await Store.open(options.storeDir);
  const located = await store.locate(options.reference);
  const { name, number: generation, dir, manifest } = located;
  requireMachine(manifest);
  const use = located.holdFor('materialize');
  try {
    const found = findUsable(dir, manifest, options.onMessage);
    const { file, sizeBytes, storedBytes } = found ?? (await writeRawMemory(dir, options));
    const totalMs = roundMs(nowMs() - startMs);
    return { name, generation, file, made: found === undefined, sizeBytes, storedBytes, totalMs };
  } finally {
    use.release();
  }
}

/** A file that has changed is made again. */
function findUsable(
  dir: string,
  manifest: Manifest,
  onMessage: MaterializeOptions['onMessage'],
): RawMemory | undefined {
  try {
    return findRawMemory(dir, manifest);
  } catch (error) {
    if (!(error instanceof VmckptError) || error.code !== 'RAW_MEMORY_CHANGED') throw error;
    onMessage(`Rebuilding the raw memory file: ${error.message}.`);
    return undefined;
  }
}
