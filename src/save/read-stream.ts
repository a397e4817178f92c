/** From QEMU's connection into a checkpoint: read, parse, and hand each page to the writer as it passes. */
import { read } from 'node:fs';
import { promisify } from 'node:util';
import { StreamParser, type ParsedStream, type StreamHandler } from '../migration-stream/parser.js';
import { receiveAvailable } from '../native/index.js';
import { MAX_BURST_BYTES } from '../pages/contracts.js';

const readDescriptor = promisify(read);

export interface ReadStreamOptions {
  /** QEMU's end of the migration connection. */
  readonly fd: number;
  readonly handler: StreamHandler;
  /** Resolves when the sink takes another MAX_BURST_BYTES. */
  readonly ready: () => Promise<void>;
  readonly onProgress: (streamBytes: number) => void;
  readonly signal: AbortSignal;
}

/** Reads the stream to its end. @throws VmckptError STREAM_MALFORMED, STREAM_TRUNCATED, or what the sink throws */
export async function readStream({
  fd,
  handler,
  ready,
  onProgress,
  signal,
}: ReadStreamOptions): Promise<ParsedStream> {
  const parser = new StreamParser(handler);
  const buffer = Buffer.allocUnsafe(MAX_BURST_BYTES);
  for (;;) {
    const bytesRead = receiveAvailable(fd, buffer) ?? (await waitAndRead(fd, buffer));
    signal.throwIfAborted();
    if (bytesRead === 0) return parser.end();
    parser.push(buffer.subarray(0, bytesRead));
    onProgress(parser.bytesSeen);
    await ready();
  }
}

/** A blocking read in libuv's pool: one large copy, instead of an event-loop turn per 64 KiB. */
async function waitAndRead(fd: number, buffer: Buffer): Promise<number> {
  const { bytesRead } = await readDescriptor(fd, buffer, 0, buffer.length, null);
  return bytesRead;
}
