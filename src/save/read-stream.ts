/** From QEMU's pipe into a checkpoint: read, parse, and hand each page to the writer as it passes. */
import { setImmediate as turn } from 'node:timers/promises';
import { StreamParser, type ParsedStream } from '../migration-stream/parser.js';
import type { RamHandler } from '../migration-stream/ram-section.js';
import { readAvailable } from '../native/index.js';
import { MAX_BURST_BYTES } from '../pages/contracts.js';

/**
 * How long an empty pipe is left alone. Who waits in the kernel instead is woken for every page that QEMU writes,
 * and Node's timers, of a millisecond or two, let a pipe of 1 MiB run full.
 */
const NAP_MS = 0.3;
/** A pipe that never runs empty must not keep signals and QEMU's answers waiting. */
const MAX_BUSY_MS = 20;
const BED = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

export interface ReadStreamOptions {
  /** Read end of the pipe that QEMU writes to, non-blocking. */
  readonly fd: number;
  readonly handler: RamHandler;
  /** Resolves when the sink takes another MAX_BURST_BYTES. */
  readonly ready: () => Promise<void>;
  readonly onProgress: (streamBytes: number) => void;
  readonly signal: AbortSignal;
}

/** Reads the stream to its end. @throws VmckptError STREAM_MALFORMED, STREAM_TRUNCATED, or what the sink throws */
export async function readStream(options: ReadStreamOptions): Promise<ParsedStream> {
  const parser = new StreamParser(options.handler);
  await readUntil(() => false, parser, options);
  return parser.end();
}

/**
 * Reads the memory of a stopped VM whose migration is held; the rest of its stream says nothing.
 * @returns what takes the devices then
 * @throws VmckptError as `readStream`
 */
export async function readHeldMemory(
  options: ReadStreamOptions,
): Promise<(savedDevices: Buffer) => ParsedStream> {
  const parser = new StreamParser(options.handler, { held: true });
  await readUntil(() => parser.memoryIsWhole, parser, options);
  if (!parser.memoryIsWhole) throw parser.truncated();
  return (savedDevices) => parser.endHeld(savedDevices);
}

async function readUntil(
  isEnough: () => boolean,
  parser: StreamParser,
  { fd, ready, onProgress, signal }: ReadStreamOptions,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(MAX_BURST_BYTES);
  let turnedAtMs = performance.now();
  while (!isEnough()) {
    if (performance.now() - turnedAtMs > MAX_BUSY_MS) {
      await turn();
      turnedAtMs = performance.now();
    }
    signal.throwIfAborted();
    const bytesRead = readAvailable(fd, buffer);
    if (bytesRead === 0) return;
    if (bytesRead === undefined) {
      await nap();
      continue;
    }
    parser.push(buffer.subarray(0, bytesRead));
    onProgress(parser.bytesSeen);
    await ready();
  }
}

async function nap(): Promise<void> {
  Atomics.wait(BED, 0, 0, NAP_MS);
  await turn();
}
