/**
 * The story of an import: a plain migration stream becomes the next generation of a name. The stream carries no
 * checksums and does not tell how QEMU was started. So only its form can be verified, and what is unknown is recorded
 * as unknown.
 */
import { addAbortSignal, type Readable } from 'node:stream';
import type { Manifest, ManifestParts } from '../checkpoint/manifest.js';
import { CheckpointWriter } from '../checkpoint/writer.js';
import { VmckptError } from '../errors.js';
import { globalStateIn } from '../migration-stream/global-state.js';
import { StreamParser, type ParsedStream } from '../migration-stream/parser.js';
import { MAX_BURST_BYTES } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { Store, type PendingGeneration } from '../store/store.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { packageVersion } from '../util/package-paths.js';
import { formatBytes } from '../util/units.js';
import { readFailure } from './files.js';
import { refusingForeign } from './foreign-formats.js';

/** Real ones have about 0.1 MB. */
const MAX_DESCRIPTION_BYTES = 2 << 20;
const UNKNOWN = 'unknown';

export interface ImportOptions {
  readonly storeDir: string;
  readonly name: string;
  /** The stream's bytes; read to the end, or destroyed. */
  readonly input: Readable;
  /** The input's name in messages. */
  readonly inputName: string;
  readonly level: number | 'none';
  /** QEMU's arguments for the restore, without the binary; empty when unknown. */
  readonly commandLine: readonly string[];
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
  /** Called when the generation gets its number: from here on an interrupt comes too late. */
  readonly onCommit?: () => void;
}

export interface ImportReport {
  readonly name: string;
  readonly generation: number;
  readonly ramBytes: number;
  readonly nonZeroBytes: number;
  readonly storedBytes: number;
  readonly totalMs: number;
}

/**
 * @throws VmckptError STREAM_MALFORMED, STREAM_TRUNCATED, FORMAT_UNSUPPORTED, FILE_UNREADABLE, BAD_NAME, STORE_LOCKED,
 *   NO_SPACE, INTERRUPTED and others: the store is then as before
 */
export async function importMachine(options: ImportOptions): Promise<ImportReport> {
  const startMs = nowMs();
  const store = await Store.openOrCreate(options.storeDir);
  const pending = await store.begin(options.name);
  try {
    const manifest = await readInto(pending, options);
    await pending.commit(options);
    reportAbsent(manifest, options);
    const { name, generation, sizes } = manifest;
    const { ramBytes, nonZeroBytes, storedBytes } = sizes;
    return { name, generation, ramBytes, nonZeroBytes, storedBytes, totalMs: roundMs(nowMs() - startMs) };
  } catch (error) {
    await pending.abort();
    throw error;
  }
}

async function readInto(pending: PendingGeneration, options: ImportOptions): Promise<Manifest> {
  let writer: CheckpointWriter | undefined;
  let ramBytes = 0;
  const parser = new StreamParser({
    onLayout: (layout) => {
      ramBytes = layout.ramBytes;
      return (writer = CheckpointWriter.create(pending.dir, {
        layout,
        level: options.level,
        chain: pending.chain,
      }));
    },
  });
  try {
    for await (const piece of refusingForeign(piecesOf(options), options.inputName)) {
      parser.push(piece);
      options.onProgress(parser.bytesSeen, ramBytes);
      await writer?.ready();
    }
    const stream = parser.end();
    return await writer!.finish(partsOf(stream, pending, options), stream.deviceState);
  } catch (error) {
    await writer?.abort();
    throw error;
  }
}

/** The input in pieces of at most MAX_BURST_BYTES. */
async function* piecesOf({ input, inputName, signal }: ImportOptions): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of addAbortSignal(signal, input) as AsyncIterable<Buffer>)
      for (let at = 0; at < chunk.length; at += MAX_BURST_BYTES)
        yield chunk.subarray(at, at + MAX_BURST_BYTES);
  } catch (error) {
    signal.throwIfAborted();
    throw readFailure(error, inputName);
  }
}

function partsOf(
  stream: ParsedStream,
  { name, generation }: PendingGeneration,
  { commandLine }: ImportOptions,
): ManifestParts {
  const { length: descriptionBytes } = stream.description;
  if (descriptionBytes > MAX_DESCRIPTION_BYTES)
    throw new VmckptError(
      'STREAM_MALFORMED',
      `the device description has ${descriptionBytes} bytes, expected at most ${MAX_DESCRIPTION_BYTES}`,
    );
  if (stream.description.includes(0) || stream.machineName.includes('\0'))
    throw new VmckptError('STREAM_MALFORMED', 'a name contains a NUL character');
  return {
    name,
    generation,
    created: new Date().toISOString(),
    vmckptVersion: packageVersion(),
    mode: 'import',
    ...savedState(stream.deviceState),
    qemu: { version: UNKNOWN, binaryName: UNKNOWN },
    machine: { type: stream.machineName === '' ? UNKNOWN : stream.machineName },
    migration: {
      configuration: stream.configuration.toString('base64'),
      ramSectionId: stream.ramSectionId,
      ...(descriptionBytes > 0 && { description: stream.description.toString('utf8') }),
    },
    commandLine: [...commandLine],
    ...(commandLine.length > 0 && { workingDirectory: process.cwd() }),
    devices: [],
    blockDevices: [],
    memoryBackends: [],
  };
}

/** A machine that was stopped by something other than its user stays stopped until the user has dealt with it. */
function savedState(deviceState: Buffer): Pick<ManifestParts, 'runState' | 'vmState'> {
  const { name, sleeps } = globalStateIn(deviceState);
  const runState = name === 'running' || name === 'suspended' ? 'running' : 'paused';
  const vmState = sleeps ? 'suspended' : name;
  return { runState, ...(vmState !== runState && { vmState }) };
}

/** QEMU leaves out pages that the guest has given back, but a stream that lost pages looks the same: report it. */
function reportAbsent({ pages }: Manifest, { onMessage }: ImportOptions): void {
  const { absentPageCount } = pages;
  if (absentPageCount === 0) return;
  const size = formatBytes(absentPageCount * PAGE_BYTES);
  onMessage(`The stream holds nothing for ${absentPageCount} pages (${size}): they read as zero.`);
}
