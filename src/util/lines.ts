/** Splits a byte stream into lines: push-fed, bounded, and decoded as UTF-8 only once a line is complete. */
import type { Readable } from 'node:stream';

const LINE_FEED = 0x0a;

export class LineSplitter {
  readonly #maxLineBytes: number;
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes;
  }

  /**
   * @returns the lines that `chunk` completes, without their ends. @throws RangeError when a line exceeds the
   * maximum.
   */
  push(chunk: Buffer): string[] {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(LINE_FEED); end !== -1; end = chunk.indexOf(LINE_FEED, start)) {
      this.#keep(chunk.subarray(start, end));
      lines.push(Buffer.concat(this.#parts, this.#bytes).toString('utf8').trimEnd());
      this.#parts = [];
      this.#bytes = 0;
      start = end + 1;
    }
    this.#keep(chunk.subarray(start));
    return lines;
  }

  #keep(part: Buffer): void {
    if (part.length === 0) return;
    this.#bytes += part.length;
    if (this.#bytes > this.#maxLineBytes)
      throw new RangeError(`a line of more than ${this.#maxLineBytes} bytes`);
    this.#parts.push(part);
  }
}

export interface LineReader {
  readonly maxLineBytes: number;
  readonly onLine: (line: string) => void;
  /** Called once, after the last line, however the stream ends: closed, broken, or with a line that is too long. */
  readonly onEnd: () => void;
}

/**
 * Reads a stream's lines. If the other end of a socket dies while it has unread data, the socket fails with
 * ECONNRESET and emits no `end`. node:readline would wait for `end` forever, so it is not used (eslint.config.js).
 */
export function readLines(stream: Readable, { maxLineBytes, onLine, onEnd }: LineReader): void {
  const lines = new LineSplitter(maxLineBytes);
  let ended = false;
  const end = (): void => {
    if (!ended) onEnd();
    ended = true;
  };
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const line of lines.push(chunk)) onLine(line);
    } catch (error) {
      stream.destroy(error as Error);
    }
  });
  for (const event of ['end', 'error', 'close']) stream.on(event, end);
}
