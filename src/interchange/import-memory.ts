/**
 * The import of bare memory: a file with the contents of a VM's RAM, byte for byte, as Firecracker and Cloud Hypervisor
 * write it into a snapshot. The generation holds memory only; other programs keep the rest of the machine.
 */
import { open, stat, type FileHandle } from 'node:fs/promises';
import type { Manifest, ManifestParts } from '../checkpoint/manifest.js';
import { CheckpointWriter } from '../checkpoint/writer.js';
import { VmckptError } from '../errors.js';
import { nextData } from '../native/index.js';
import { MAX_BURST_BYTES } from '../pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../pages/layout.js';
import { Store, type PendingGeneration } from '../store/store.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { packageVersion } from '../util/package-paths.js';
import { readFailure } from './files.js';
import type { ImportOptions, ImportReport } from './import.js';

/** The name of the one RAM block. */
const BLOCK = 'memory';
const UNKNOWN = 'unknown';

export interface ImportMemoryOptions extends Pick<
  ImportOptions,
  'storeDir' | 'name' | 'level' | 'onProgress' | 'signal' | 'onCommit'
> {
  readonly file: string;
}

/**
 * @throws VmckptError HOST_FILE_MISSING, FILE_UNREADABLE, BAD_NAME, STORE_LOCKED, NO_SPACE, INTERRUPTED: the store is
 * then as before
 */
export async function importMemory(options: ImportMemoryOptions): Promise<ImportReport> {
  const startMs = nowMs();
  const { file, bytes } = await openMemory(options.file);
  try {
    const store = await Store.openOrCreate(options.storeDir);
    const pending = await store.begin(options.name);
    try {
      const { sizes } = await readInto(pending, { file, bytes }, options);
      await pending.commit(options);
      const { name, generation } = pending;
      const { ramBytes, nonZeroBytes, storedBytes } = sizes;
      return { name, generation, ramBytes, nonZeroBytes, storedBytes, totalMs: roundMs(nowMs() - startMs) };
    } catch (error) {
      await pending.abort();
      throw error;
    }
  } finally {
    await file.close();
  }
}

interface MemoryFile {
  readonly file: FileHandle;
  readonly bytes: number;
}

async function openMemory(name: string): Promise<MemoryFile> {
  try {
    // Before it is opened: opening a pipe without a writer would block.
    const found = await stat(name);
    if (!found.isFile())
      throw new VmckptError('FILE_UNREADABLE', `${name} is not a regular file`, {
        hint: 'Write it to a file first: its size must be known before it is read.',
      });
    if (found.size === 0 || found.size % PAGE_BYTES !== 0)
      throw new VmckptError(
        'FILE_UNREADABLE',
        `${name} has ${found.size} bytes, expected whole pages of ${PAGE_BYTES} bytes`,
        { hint: 'The file is cut off, or does not contain memory.' },
      );
    return { file: await open(name, 'r'), bytes: found.size };
  } catch (error) {
    throw readFailure(error, name);
  }
}

async function readInto(
  pending: PendingGeneration,
  memory: MemoryFile,
  options: ImportMemoryOptions,
): Promise<Manifest> {
  const layout = new RamLayout([{ name: BLOCK, usedBytes: memory.bytes }]);
  const writer = CheckpointWriter.create(pending.dir, { layout, level: options.level, chain: pending.chain });
  try {
    await copyPages(memory, writer, options);
    return await writer.finish(partsOf(pending), new Uint8Array(0));
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

async function copyPages(
  { file, bytes }: MemoryFile,
  writer: CheckpointWriter,
  { file: name, onProgress, signal }: ImportMemoryOptions,
): Promise<void> {
  const chunk = Buffer.allocUnsafe(MAX_BURST_BYTES);
  for (let at = 0; at < bytes;) {
    signal.throwIfAborted();
    await writer.ready();
    const hole = holeAt(file, at, bytes);
    if (hole > 0) {
      for (let end = at + hole; at < end; at += PAGE_BYTES) writer.fill(at / PAGE_BYTES, 0);
    } else {
      const length = Math.min(chunk.length, bytes - at);
      await readExactly(file, chunk.subarray(0, length), at, name);
      for (let start = 0; start < length; start += PAGE_BYTES)
        writer.data((at + start) / PAGE_BYTES, chunk, start);
      at += length;
    }
    onProgress(at, bytes);
  }
}

/** How many bytes of whole pages, at most one burst, are zero because the file has a hole there. */
function holeAt(file: FileHandle, at: number, endAt: number): number {
  const holeBytes = Math.min(nextData(file.fd, at) ?? endAt, endAt) - at;
  return Math.min(holeBytes - (holeBytes % PAGE_BYTES), MAX_BURST_BYTES);
}

async function readExactly(file: FileHandle, into: Buffer, at: number, name: string): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await file
      .read(into, done, into.length - done, at + done)
      .catch((error: unknown) => {
        throw readFailure(error, name);
      });
    if (bytesRead === 0)
      throw new VmckptError('FILE_UNREADABLE', `${name} became shorter while it was read`, {
        hint: 'Import it when its VM no longer writes to it.',
      });
    done += bytesRead;
  }
}

function partsOf({ name, generation }: PendingGeneration): ManifestParts {
  return {
    name,
    generation,
    created: new Date().toISOString(),
    vmckptVersion: packageVersion(),
    mode: 'import',
    runState: 'paused',
    qemu: { version: UNKNOWN, binaryName: UNKNOWN },
    machine: { type: UNKNOWN },
    migration: { configuration: '', ramSectionId: 0 },
    commandLine: [],
    devices: [],
    blockDevices: [],
    memoryBackends: [],
  };
}
