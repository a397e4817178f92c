/**
 * The story of an export: a generation becomes a plain migration stream, which stock QEMU loads with
 * `-incoming "exec:cat FILE"`. Every extent is verified on the way, so a damaged generation gives no file.
 */
import { FileExtents } from '../checkpoint/file-extents.js';
import { requireMachine } from '../checkpoint/manifest.js';
import { Store, type Generation } from '../store/store.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { readMachineState, sendWholeMachine } from '../transfer/whole-machine.js';
import { writeFailure, writeNewFile, type NewFileOptions, type Output } from './files.js';

const PROGRESS_EVERY_MS = 100;

export interface ExportOptions {
  readonly storeDir: string;
  /** NAME or NAME@GENERATION. */
  readonly reference: string;
  /** A file that appears as a whole or not at all, or a stream, which is closed at the end. */
  readonly target: (NewFileOptions & { readonly file: string }) | { readonly stream: Output };
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly signal: AbortSignal;
}

export interface ExportReport {
  readonly name: string;
  readonly generation: number;
  /** `-` for a stream. */
  readonly file: string;
  readonly fileBytes: number;
  readonly totalMs: number;
}

/**
 * @throws VmckptError NO_STORE, NO_CHECKPOINT and what else opening a generation throws, EXTENT_DAMAGED,
 *   INDEX_DAMAGED, DEVICE_STATE_DAMAGED, FILE_EXISTS, NO_SPACE, NOT_PERMITTED, FAILED, INTERRUPTED
 */
export async function exportMachine(options: ExportOptions): Promise<ExportReport> {
  const startMs = nowMs();
  const { target } = options;
  const store = await Store.open(options.storeDir);
  const located = await store.locate(options.reference);
  const { name, number: generation } = located;
  const use = located.hold();
  try {
    const write = (out: Output) => writeGeneration(located, out, options);
    const fileBytes = await ('file' in target
      ? writeNewFile(target.file, target, write)
      : write(target.stream).catch((error: unknown) => {
          throw writeFailure(error, 'the stream');
        }));
    const file = 'file' in target ? target.file : '-';
    return { name, generation, file, fileBytes, totalMs: roundMs(nowMs() - startMs) };
  } finally {
    use.release();
  }
}

/** Returns the length of the stream in bytes. */
async function writeGeneration(
  generation: Generation,
  out: Output,
  { onProgress, signal }: ExportOptions,
): Promise<number> {
  const reader = generation.openReader();
  const extents = new FileExtents(reader);
  const { nonZeroBytes, deviceStateBytes } = reader.manifest.sizes;
  const progress = setInterval(
    () => onProgress(out.bytesWritten, nonZeroBytes + deviceStateBytes),
    PROGRESS_EVERY_MS,
  );
  try {
    requireMachine(reader.manifest);
    const state = await readMachineState(reader);
    const { sentBytes } = await sendWholeMachine({ catalog: reader, extents, out, state, signal });
    return sentBytes;
  } finally {
    clearInterval(progress);
    await extents.close();
    reader.close();
  }
}
